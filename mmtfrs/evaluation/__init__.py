"""Metrics over the whole catalog, exact, beside baselines."""
