"""Entrypoints for `ray job submit`; each a thin main() over the command line."""
