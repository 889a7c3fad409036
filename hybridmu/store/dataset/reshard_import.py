"""A lake whose first generation are the live rows of another lake, cut again, and encoded again if need be."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoded_values import Derived
from hybridmu.core.features.encoding_parts import Encode, here
from hybridmu.core.kernel.column_types import common, exact, kept, other_type
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.table_encoder import Encoder, make_columns
from hybridmu.core.proof.lineage import chain
from hybridmu.errors import HybridMUError
from hybridmu.store.dataset.derived_table import with_features
from hybridmu.store.dataset.generation import Beat
from hybridmu.store.dataset.ingest import Record, first_generation, found, unrecorded, write_first
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, Ancestry, Manifest, Split, digest_column, stored_name
from hybridmu.store.dataset.list_packing import unpacked_field
from hybridmu.store.dataset.source_rows import Reader
from hybridmu.store.dataset.suppression import Suppression
from hybridmu.store.storage.parquet import open_parquet
from hybridmu.types import NO_KEYS, KeySet

Gone = Mapping[int, KeySet]


@dataclass(frozen=True)
class Predecessor:
    """The model that is taken over, as it is at one moment.

    Attributes:
        system: Random name of its system.
        name: Its name for people.
        version: The version that it serves.
        lake: Its tables.
        gone: Shard → tombstoned keys, whose rows stay behind.
        tombstones: The highest tombstone number.
    """

    system: str
    name: str
    version: int
    lake: Lake
    gone: Gone
    tombstones: int


def inherit(
    lake: Lake,
    old: Predecessor,
    guard: Suppression,
    record: Record = unrecorded,
    beat: Beat = lambda: None,
    encode: Encode | None = None,
) -> Manifest:
    """Write a new lake from the live rows of another: one generation, in other shards and slices.

    Columns and classes stay as they were; rows that a hash held out of the training table are held out again by the
    same hash. Features of texts and pictures are made again where the new lake has other encoders. One row group is in
    memory at a time, and one shard when it is sorted.

    Args:
        lake: The new one; nothing is in it.
        old: The other one, which may be at work meanwhile.
        guard: What must not come in.
        record: As in `ingest`.
        beat: Called again and again meanwhile.
        encode: Makes derived columns; None: this process does.

    Returns:
        The new manifest, which comes last.

    Raises:
        ConfigError: A new encoder can't be had.
        DataError: A column's types differ so much between generations that no table could hold them all; or a value
            can't be encoded by a new encoder.
    """
    before, share = old.lake.manifest, old.lake.manifest.test_fraction
    anew = _is_encoded_anew(lake.derivation, before.encoders)
    encoder = with_derived_columns(before.encoder, before.encoders, lake.derivation) if anew else before.encoder
    encoders = lake.derivation.digests if anew else before.encoders
    reader = Reader(lake, encoder, guard)
    stored = [name for name in reader.columns if not (anew and name in lake.derivation.names)]

    def live(splits: tuple[Split, ...]) -> Iterator[pa.Table]:
        tables = _live(old, splits, stored)
        if not anew:
            return tables
        where = f"the live rows of model {old.name}"
        return with_features(tables, lake.derivation, lake.derivation.names, encode or here, where)

    ours = old.lake.training_splits
    splits: list[tuple[Split, tuple[Split, ...]]] = [("train", ours)]
    splits += [(split, (split,)) for split in SPLITS if split in before.rows and split not in ours]
    sources = [(split, reader.take(live(parts))) for split, parts in splits]
    rows, seals = write_first(lake, sources, share, beat)
    generation = first_generation(lake, rows, reader.skipped, before.id_type, before.group_type)
    salt = secrets.token_bytes(32)
    past = ancestry_of(old)
    manifest = Manifest(encoder.to_json(), before.classes_inferred, salt, (generation,), past, share, encoders)
    return found(lake, manifest, seals, record)


def with_derived_columns(encoder: Encoder, before: Collection[str], derivation: Derivation) -> Encoder:
    """Return an encoder with other derived columns in the place of those that it has.

    Args:
        encoder: Of the old lake.
        before: Its derived columns.
        derivation: The new ones.
    """
    schema = pa.schema([(column.name, column.type) for column in derivation])
    made = make_columns(schema, derivation.names, fills={}, categories={}, hash_buckets={}, scale=derivation.scales)
    return replace(encoder, columns=(*(column for column in encoder.columns if column.name not in before), *made))


def _is_encoded_anew(derivation: Derivation, before: Mapping[str, str]) -> bool:
    """Return whether an encoder is another one than that of the stored features; of one that is gone, they are kept."""

    def is_another(column: Derived) -> bool:
        try:
            return column.digest != before[column.name]
        except (HybridMUError, OSError):
            return False

    return {*derivation.names} != {*before} or any(map(is_another, derivation))


def ancestry_of(old: Predecessor) -> Ancestry:
    """Return what a successor remembers of a model: counts and Merkle roots, no key of any row."""
    manifest = old.lake.manifest
    shards = []
    for shard in range(old.lake.shards):
        rows = old.lake.outline(shard, old.gone.get(shard, NO_KEYS))
        links = chain("00", rows, manifest.epochs_of(shard), manifest.salt).links
        shards.append(tuple((link.rows, link.root) for link in links))
    brought = tuple(generation.count for generation in manifest.generations)
    return Ancestry(old.system, old.name, old.version, old.tombstones, brought, tuple(shards))


def _live(old: Predecessor, splits: tuple[Split, ...], columns: list[str]) -> Iterator[pa.Table]:
    """Yield the live rows of some tables, shard by shard, all with the same types."""
    lake = old.lake
    there = [split for split in splits if split in lake.manifest.rows]
    places = [(shard, lake.files(split, shard)) for split in there for shard in range(lake.shards)]
    types = _types(lake, [name for _, names in places for name in names], columns)
    for shard, names in places:
        for table in lake.tables(names):
            ids, groups = digest_column(table, "_id"), digest_column(table, "_group")
            live = table.filter(pa.array(~carries(ids, groups, old.gone.get(shard, NO_KEYS))))
            for batch in live.combine_chunks().to_batches():
                made = [exact(c, batch.column(stored_name(c)), types[c], "the tables") for c in columns]
                yield pa.Table.from_arrays(made, columns)


def _types(lake: Lake, names: list[str], columns: list[str]) -> dict[str, pa.DataType]:
    """Return types that hold the rows of all files: integers and floats are one kind, and widths may differ.

    Raises:
        DataError: There are none.
    """  # noqa: DOC501 - a function makes it
    types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.null())
    for name in names:
        with open_parquet(lake.storage, name) as file:
            for column in columns:
                found = kept(unpacked_field(file.schema_arrow.field(stored_name(column))).type)
                both = common(types[column], found)
                if both is None:
                    raise other_type(column, name, types[column], found)
                types[column] = both
    return types
