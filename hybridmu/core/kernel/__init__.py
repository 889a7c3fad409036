"""Kernel: the code that shapes exact weights. `hybridmu.code_digest` hashes it into every lineage key."""
