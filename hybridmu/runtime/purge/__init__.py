"""Purge: rows leave the files of storage, and a scan looks for what is left of them."""
