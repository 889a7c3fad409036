"""Journal: the storage's own memory of the ledger."""
