"""Names, columns and manifest of the Parquet lake.

Data comes in generations, each with files of its own; an id or group has the same shard in all of them. A row keeps
its own columns and gets four: `_slice`, `_id`, `_group`, `_content` (16-byte digests); a column of the user that has
such a name is kept under another one. Row groups never cross a slice. Index files are partitioned by the hash that they
look up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.core.kernel.partition import Digests, place
from hybridmu.store.storage.sealed_json import sealed, unsealed

if TYPE_CHECKING:
    from hybridmu.core.kernel.table_encoder import Encoder

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT: tuple[Split, ...] = ("validation", "test")  # whose rows are never trained on
META = ("_slice", "_id", "_group", "_content")
MANIFEST = "lake/manifest.json"
LAYOUT = "lake/layout"  # says that every table was written by a release that keeps values in rows alone
INCOMING = "incoming"
_APART = "="
DIGEST = pa.binary(16)
# An older copy would bring back what a purge removed, or other rows and labels; it is refused as well.
PUT_BACK = (
    "put back this file as it was last written; of a copy from before a purge `hybridmu ledger mend` leaves out what "
    "is gone, or refuses it (docs/operations.md, A damaged table)"
)


@dataclass(frozen=True)
class Generation:
    """Rows that came in together: the first read, or one ingestion.

    Attributes:
        slices: R_g, how many slices they are cut into.
        epochs: e_i of each of them, frozen here.
        rows: Split → rows per shard, per slice of this generation, as they came in: later removals don't change it.
        skipped: Rows that were left out, because their id or group is forgotten.
        id_type: Arrow type of the id column, as text.
        group_type: The same for the group column; None without one.
        ingest_id: The ingestion; None for the first read.
        after_request: The request whose rows it brought back, corrected.
    """

    slices: int
    epochs: tuple[int, ...]
    rows: dict[str, tuple[tuple[int, ...], ...]]
    skipped: int
    id_type: str
    group_type: str | None
    ingest_id: str | None = None
    after_request: str | None = None

    @property
    def count(self) -> int:
        """Return how many rows it brought, in all splits and shards."""
        return sum(sum(shard) for shards in self.rows.values() for shard in shards)

    def has_rows(self, split: str, shard: int) -> bool:
        """Return whether it brought a shard any row of a split."""
        return split in self.rows and any(self.rows[split][shard])


@dataclass(frozen=True)
class Ancestry:
    """The model whose live rows became another one's first generation.

    Attributes:
        system: Random name of its system.
        name: Its name for people.
        version: The version that it served.
        tombstones: The highest tombstone number then: rows of later ones may have come along, and are forgotten since.
        generations: Rows that each of its generations had brought.
        shards: Per shard, (live training rows, Merkle root) of every slice, under its own salt.
    """

    system: str
    name: str
    version: int
    tombstones: int
    generations: tuple[int, ...]
    shards: tuple[tuple[tuple[int, str], ...], ...]

    @property
    def rows(self) -> int:
        """Return how many live training rows there were."""
        return sum(rows for shard in self.shards for rows, _ in shard)

    @property
    def root(self) -> str:
        """Return one hash over all of it, 64 hex digits."""
        document = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(document.encode(), digest_size=32, person=b"hybridmu-past").hexdigest()

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Ancestry:
        """Return what `asdict` made plain."""
        shards = tuple(tuple((rows, root) for rows, root in shard) for shard in raw["shards"])
        return cls(**{**raw, "generations": tuple(raw["generations"]), "shards": shards})


@dataclass(frozen=True)
class Manifest:
    """What the lake holds.

    Slices are numbered through all generations: those of generation g follow those of all earlier ones.

    Attributes:
        schema: Feature columns as they are declared, label and classes, as the encoder's plain data.
        classes_inferred: Whether the class list was read off the data once, instead of declared.
        salt: 32 random bytes that key the leaves of the Merkle trees in every lineage.
        generations: In the order in which they came; the first is what the first training read.
        ancestry: The model that the first generation was taken from; None: it was read from source tables.
        test_fraction: Share of the people of the training table that are held out as the test table.
        encoders: Derived column → digest of the encoder that makes its features.
    """

    schema: dict[str, Any]
    classes_inferred: bool
    salt: bytes
    generations: tuple[Generation, ...]
    ancestry: Ancestry | None = None
    test_fraction: float = 0.0
    encoders: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def encoder(self) -> Encoder:
        """Return the encoder of feature columns, and of labels or targets."""
        from hybridmu.core.targets import encoder_of  # an Arrow scalar there loads pandas; look-ups do without

        return encoder_of(self.schema)

    @property
    def id_type(self) -> str:
        """Return the Arrow type of the id column, as text."""
        return self.generations[0].id_type

    @property
    def group_type(self) -> str | None:
        """Return the Arrow type of the group column, as text; `null` before the first group, None without a column."""
        known = (found.group_type for found in self.generations if found.group_type != "null")
        return next(known, self.generations[0].group_type)

    @property
    def initial_slices(self) -> int:
        """Return R_0, the slices of the first read."""
        return self.generations[0].slices

    @property
    def slices(self) -> int:
        """Return how many slices there are in all generations."""
        return self.first_slice(len(self.generations)) - 1

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """Return e_i of every slice of all generations."""
        return tuple(epochs for generation in self.generations for epochs in generation.epochs)

    @cached_property
    def rows(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Return split → rows per shard, per slice of all generations, tombstoned and purged ones included."""
        names = dict.fromkeys(split for generation in self.generations for split in generation.rows)
        return {split: self._rows(split) for split in names}

    def first_slice(self, generation: int) -> int:
        """Return the number of a generation's first slice."""
        return 1 + sum(earlier.slices for earlier in self.generations[:generation])

    def epochs_of(self, shard: int, generations: int | None = None) -> tuple[int, ...]:
        """Return e_i of the slices that concern one shard: all up to the last generation that brought it training rows.

        Args:
            shard: Shard number.
            generations: As if only the first so many were there; all by default.
        """
        given = self.generations[:generations]
        last = max((g for g, found in enumerate(given) if found.has_rows("train", shard)), default=0)
        return self.epochs[: self.first_slice(last + 1) - 1]

    @property
    def training_rows(self) -> int:
        """Return how many training rows were ever read, revoked and purged ones included."""
        return sum(map(sum, self.rows["train"]))

    def to_bytes(self) -> bytes:
        """Return the JSON that `from_bytes` reads."""
        document = {
            "encoder": self.schema,
            "classes_inferred": self.classes_inferred,
            "salt": self.salt.hex(),
            "generations": [asdict(generation) for generation in self.generations],
            "ancestry": asdict(self.ancestry) if self.ancestry else None,
        }
        if self.test_fraction:  # a member that older manifests don't have
            document["test_fraction"] = self.test_fraction
        if self.encoders:
            document["encoders"] = dict(self.encoders)
        return sealed(document)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Return the manifest that `to_bytes` wrote.

        Raises:
            CorruptBlobError: It is damaged.
        """
        members = ("encoder", "classes_inferred", "salt", "generations", "ancestry")
        raw = unsealed(data, MANIFEST, members, PUT_BACK, older=members)
        generations = []
        for found in raw["generations"]:
            rows = {split: tuple(tuple(shard) for shard in shards) for split, shards in found["rows"].items()}
            generations.append(Generation(**{**found, "epochs": tuple(found["epochs"]), "rows": rows}))
        past = Ancestry.from_json(raw["ancestry"]) if raw["ancestry"] else None
        salt, share = bytes.fromhex(raw["salt"]), raw.get("test_fraction", 0.0)
        encoders = raw.get("encoders", {})
        return cls(raw["encoder"], raw["classes_inferred"], salt, tuple(generations), past, share, encoders)

    def _rows(self, split: str) -> tuple[tuple[int, ...], ...]:
        shards = len(self.generations[0].rows["train"])
        parts = [found.rows.get(split, ((0,) * found.slices,) * shards) for found in self.generations]
        return tuple(tuple(chain.from_iterable(part[shard] for part in parts)) for shard in range(shards))


def folder(generation: int) -> str:
    """Return the folder of a generation's files."""
    return f"lake/g{generation:04d}"


def shard_file(generation: int, split: str, shard: int) -> str:
    """Return the name of one generation's table of a shard."""
    return f"{folder(generation)}/{split}/shard-{shard:05d}.parquet"


def id_file(generation: int, part: int) -> str:
    """Return the name of one part of a generation's id → shard index (grouped tables only)."""
    return f"{folder(generation)}/index/id-{part:05d}.parquet"


def content_file(generation: int, part: int) -> str:
    """Return the name of one part of a generation's content → training row index."""
    return f"{folder(generation)}/index/content-{part:05d}.parquet"


def incoming_file(ingest_id: str) -> str:
    """Return the name of the copy of new data that waits to become a generation."""
    return f"{INCOMING}/{ingest_id}.parquet"


def stored_name(name: str) -> str:
    """Return the name under which the lake keeps a column: its own, unless that is one of ours.

    Example:
        >>> stored_name("age"), stored_name("_id"), stored_name("=_id")
        ('age', '=_id', '==_id')
    """
    return _APART + name if name.lstrip(_APART) in META else name


def given_name(stored: str) -> str:
    """Return the name that the user gave a column, from the one under which the lake keeps it."""
    return stored.removeprefix(_APART) if stored.lstrip(_APART) in META else stored


def as_stored(table: pa.Table) -> pa.Table:
    """Return a table of the user's columns under the names of the lake."""
    return table.rename_columns([stored_name(name) for name in table.schema.names])


def as_given(table: pa.Table) -> pa.Table:
    """Return a table of the lake, without our own columns, under the user's names."""
    return table.rename_columns([given_name(name) for name in table.schema.names])


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
    column = _whole(table, name)
    data = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return data[column.offset * 16 : (column.offset + len(column)) * 16].reshape(-1, 16)


def number_column(table: pa.Table, name: str) -> npt.NDArray[np.int32]:
    """Return a column of whole numbers, none of them null, as int32 [n].

    Arrow's own conversion imports pandas, which takes longer than to look a key up.
    """
    column = _whole(table, name)
    if not len(column):
        return np.empty(0, dtype=np.int32)
    data = np.frombuffer(column.buffers()[1], dtype=str(column.type), count=column.offset + len(column))
    return data[column.offset :].astype(np.int32)


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        none = pa.Array.from_buffers(column.type, 0, [None, pa.py_buffer(b"")])
        column = pa.concat_arrays(column.chunks) if column.num_chunks else none
    return column
