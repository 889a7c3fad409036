"""Lineage, Merkle trees, evidence and certificates."""
