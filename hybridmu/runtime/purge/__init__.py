"""Purge: rows leave storage and database, a scan looks for what is left, a certificate says so."""
