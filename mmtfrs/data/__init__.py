"""Catalog, events and users: reading, validation, splits; and the generated demo catalog."""
