"""Benchmarks: what measures the product, and the study of strategies."""
