"""Rows in Parquet: read once, sorted into shards and slices, looked up."""
