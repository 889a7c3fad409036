"""Held-out rows of built-in datasets: one in five, by a hash of the row's number, whatever the order of the source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEST_SHARE = 0.2


def hash_of(text: str) -> int:
    """Return 64 bits of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def write_tables(folder: Path, table: pa.Table) -> None:
    """Write `train.parquet` and `test.parquet` of a table, which gets a column `id`.

    Args:
        folder: Where to.
        table: All rows.
    """
    held = np.array([hash_of(f"test/{row}") for row in range(len(table))], dtype=np.float64) / 2**64 < TEST_SHARE
    table = table.append_column("id", pa.array(np.arange(len(table))))
    for name, mask in (("train", ~held), ("test", held)):
        pq.write_table(table.filter(pa.array(mask)), folder / f"{name}.parquet", row_group_size=20_000)
