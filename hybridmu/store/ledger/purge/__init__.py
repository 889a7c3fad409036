"""Purges as the ledger sees them: what is due, what was found before, and the cleaning of the database itself."""
