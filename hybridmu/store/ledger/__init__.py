"""The ledger and the registry: everything that is in the database."""
