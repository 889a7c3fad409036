"""Keys of new data on its way in: a deletion must not pass over rows that are not in the lake yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from hybridmu.core.kernel.partition import digest
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.store.dataset.key_lookup import RawKey, values_of
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import digest_column
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.types import Ingestion, Key, KeySet


def waiting_keys(lake: Lake, keys: Sequence[RawKey], waiting: Sequence[Ingestion]) -> list[RawKey]:
    """Return those keys that rows carry which are not in the lake yet."""
    if not waiting:
        return []
    wanted = {(key.kind, digest(lake.key, key.kind, value)): key for key in keys for value in values_of(lake, key)}
    coming = waiting_among(lake, KeySet(wanted), waiting)
    return list(dict.fromkeys(key for pair, key in wanted.items() if pair in coming))


def waiting_among(lake: Lake, keys: KeySet, waiting: Sequence[Ingestion]) -> KeySet:
    """Return those keys that rows carry which are not in the lake yet."""
    coming: set[Key] = set()
    for table in copied_keys(lake, waiting):
        ids, groups = digest_column(table, "_id"), digest_column(table, "_group")
        coming |= {key for key in keys - coming if carries(ids, groups, KeySet([key])).any()}
    return KeySet(coming)


def copied_keys(lake: Lake, waiting: Sequence[Ingestion]) -> Iterator[pa.Table]:
    """Yield the digests of ids and groups in every waiting copy that is still there."""
    for other in waiting:
        try:
            yield read_parquet(lake.storage, other.source, ["_id", "_group"])
        except FileNotFoundError:
            continue  # it came in meanwhile
