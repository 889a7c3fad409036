"""Names, columns and manifest of the Parquet lake.

A row keeps its own columns and gets four: `_slice`, `_id`, `_group`, `_content` (16-byte digests). Row groups
never cross a slice. Index files are partitioned by the hash that they look up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.core.encode import Encoder
from hybridmu.core.partition import Digests, place

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
META = ("_slice", "_id", "_group", "_content")
MANIFEST = "lake/manifest.json"
DIGEST = pa.binary(16)


@dataclass(frozen=True)
class Manifest:
    """What the lake holds.

    Attributes:
        encoder: How rows become tensors; its class list is the schema's.
        classes_inferred: Whether the class list was read off the data once, instead of declared.
        id_type: Arrow type of the id column, as text.
        group_type: The same for the group column; None without one.
        rows: Split → rows per shard, per slice, tombstoned ones included.
        salt: 32 random bytes that key the leaves of the Merkle trees in every lineage.
    """

    encoder: Encoder
    classes_inferred: bool
    id_type: str
    group_type: str | None
    rows: dict[str, tuple[tuple[int, ...], ...]]
    salt: bytes

    @property
    def features(self) -> int:
        """Return the encoded width."""
        return self.encoder.features

    def to_bytes(self) -> bytes:
        """Return the JSON that `from_bytes` reads."""
        fields = {name: getattr(self, name) for name in ("classes_inferred", "id_type", "group_type", "rows")}
        return json.dumps({"encoder": self.encoder.to_json(), **fields, "salt": self.salt.hex()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Return the manifest that `to_bytes` wrote."""
        raw = json.loads(data)
        rows = {split: tuple(tuple(shard) for shard in shards) for split, shards in raw["rows"].items()}
        encoder = Encoder.from_json(raw["encoder"])
        salt = bytes.fromhex(raw["salt"])
        return cls(encoder, raw["classes_inferred"], raw["id_type"], raw["group_type"], rows, salt)


def shard_file(split: str, shard: int) -> str:
    """Return the name of a shard's table."""
    return f"lake/{split}/shard-{shard:05d}.parquet"


def id_file(part: int) -> str:
    """Return the name of one part of the id → shard index (grouped tables only)."""
    return f"lake/index/id-{part:05d}.parquet"


def content_file(part: int) -> str:
    """Return the name of one part of the content → training row index."""
    return f"lake/index/content-{part:05d}.parquet"


def parts_of(keys: Digests, parts: int) -> npt.NDArray[np.int32]:
    """Return the index part of each digest, int32 [n]."""
    return place(keys, parts, 1)[0]


def part_of(key: bytes, parts: int) -> int:
    """Return the index part of one 16-byte digest."""
    return int(parts_of(np.frombuffer(key, dtype=np.uint8).reshape(1, 16), parts)[0])


def digest_array(data: bytes) -> pa.Array:
    """Return concatenated 16-byte digests as a fixed-size binary array."""
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(data) // 16, [None, pa.py_buffer(data)])


def digest_column(table: pa.Table, name: str) -> Digests:
    """Return a digest column as uint8 [n, 16]."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=DIGEST)
    data = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return data[column.offset * 16 : (column.offset + len(column)) * 16].reshape(-1, 16)
