"""The command line: each command is one call of the library."""
