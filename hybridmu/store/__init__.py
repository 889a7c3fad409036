"""Durable state: Parquet shards, blobs, ledger, registry. No ray."""
