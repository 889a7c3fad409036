"""New data on its way in: a checked copy in storage, from which the coordinator makes a generation."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.core.features.encoding_parts import Encode
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.store.dataset.derived_table import open_source
from hybridmu.store.dataset.generation import already_there, duplicates, known_ids
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import INCOMING, as_given, digest_column, incoming_file, parts_of
from hybridmu.store.dataset.list_packing import packed
from hybridmu.store.dataset.source_rows import Reader
from hybridmu.store.dataset.spill_files import Streams
from hybridmu.store.dataset.suppression import Suppression
from hybridmu.store.dataset.waiting_keys import copied_keys
from hybridmu.store.storage.parquet import TableWriter, open_parquet, seal_footer
from hybridmu.store.storage.sealed_json import path_seal
from hybridmu.types import Ingestion, KeySet

# A copy that no ingestion names was left by a crash; a younger one may be on its way into the ledger.
_ORPHAN_SECONDS = 3600.0
# Is given the seal that a waiting copy will have, before it is rewritten.
Propose = Callable[[str], None]
_COPY = re.compile(rf"{INCOMING}/i-[0-9a-f]{{16}}\.parquet")


@dataclass(frozen=True)
class Copy:
    """A checked copy of new rows, not in storage yet.

    Attributes:
        path: A Parquet file on this machine.
        rows: How many rows may come in.
        skipped: How many are left out, because their id or group is forgotten.
        fingerprint: Hash of the source's bytes.
        known: How many of the rows have an id that is in the system already.
    """

    path: Path
    rows: int
    skipped: int
    fingerprint: str
    known: int


def copy_rows(lake: Lake, url: str, guard: Suppression, staging: Path, encode: Encode | None = None) -> Copy:
    """Read a table of new rows once, check every one of them, and copy what may come in.

    Args:
        lake: What they will be added to.
        url: File or folder, path or URI.
        guard: Knows what must not come in.
        staging: An empty folder on this machine.
        encode: As of `ingest`.

    Returns:
        The copy.

    Raises:
        DataError: Missing columns, other types or classes than the first table's, bad values, or an id twice.
        StateError: A guard key is lost.
    """
    guard.check()
    lake.refresh()
    manifest = lake.manifest
    reader = Reader(lake, manifest.encoder, guard)
    given = open_source(lake.settings.data, lake.encoding, url, encode)
    source = reader.fitted("new", given, manifest.id_type, manifest.group_type)
    path, by_id, rows = staging / "copy.parquet", Streams(staging / "by-id"), 0
    writer: TableWriter | None = None
    try:
        for batch in reader.read(source):
            table = packed(batch.table.drop_columns(["_content"]))
            writer = writer or TableWriter(path, table.schema)
            writer.write(table)
            by_id.append(table.select(["_id"]), parts_of(digest_column(table, "_id"), lake.shards))
            rows += len(table)
    finally:
        by_id.close()
        if writer is not None:
            writer.close()
    return Copy(path, rows, reader.skipped, source.fingerprint(), _known(lake, by_id))


def publish_copy(lake: Lake, copy: Copy, name: str) -> str:
    """Move a checked copy into storage, durably.

    Args:
        lake: Names the storage.
        copy: What `copy_rows` made; its file is gone afterwards.
        name: Its name in storage.

    Returns:
        Its seal, which belongs into the ledger together with the ingestion.
    """
    seal_footer(copy.path)
    seal = path_seal(copy.path, lake.manifest.salt)
    lake.storage.publish(copy.path, name)
    return seal


def refuse_known(lake: Lake, copy: Copy, waiting: Sequence[Ingestion]) -> None:
    """Refuse new rows whose ids are in the system, or on their way into it.

    Args:
        lake: The tables.
        copy: The new rows.
        waiting: Ingestions that are not in the lake yet.

    Raises:
        DataError: They are.
    """  # noqa: DOC501 - a function makes it
    if copy.known or (copy.rows and any(_shares_ids(lake, copy, other) for other in waiting)):
        raise already_there()


def rewrite(lake: Lake, new: Ingestion, guard: Suppression, propose: Propose) -> int:
    """Take rows out of a waiting copy that were forgotten after it was made.

    Args:
        lake: The tables.
        new: The ingestion.
        guard: Knows what was forgotten.
        propose: Called before the copy changes, if it does.

    Returns:
        How many rows went.
    """
    reader = Reader(lake, lake.manifest.encoder, guard, new.after_request)
    gone = 0
    with open_parquet(lake.storage, new.source) as file, lake.storage.staging() as folder:
        target = folder / "copy.parquet"
        with TableWriter(target, file.schema_arrow) as writer:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False)
                left = table.filter(pa.array(~reader.blocked(as_given(table.drop_columns(["_id", "_group"])))))
                gone += len(table) - len(left)
                writer.write(left)
        if gone:
            seal_footer(target)
            propose(path_seal(target, lake.manifest.salt))
            lake.storage.publish(target, new.source)
    return gone


def sweep(lake: Lake, waiting: Collection[str], known: Collection[str]) -> None:
    """Delete copies that nobody needs any more.

    Args:
        lake: Names the storage.
        waiting: Ingestions that need theirs.
        known: All ingestions of the ledger; a copy of none of them was left by a crash, and goes after a while.
    """
    keep, ours = ({incoming_file(name) for name in names} for names in (waiting, known))
    old = time.time_ns() - int(_ORPHAN_SECONDS * 1e9)
    found = lake.storage.list(INCOMING)
    copies = [f for f in found if _COPY.fullmatch(f.name) and f.name not in keep]
    gone = [f.name for f in copies if f.name in ours or f.mtime_ns < old]
    if gone:
        lake.storage.delete(*gone)


def _known(lake: Lake, by_id: Streams) -> int:
    """Return how many new ids are in the lake, after checking that none occurs twice among the new ones.

    Raises:
        DataError: One does.
    """  # noqa: DOC501 - a function makes it
    known = 0
    for part in range(lake.shards):
        table = by_id.read(part)
        if table is None:
            continue
        ids = digest_column(table, "_id")
        if len({row.tobytes() for row in ids}) < len(ids):
            raise duplicates("new")
        known += int(known_ids(lake, part, ids).sum())
    return known


def _shares_ids(lake: Lake, copy: Copy, other: Ingestion) -> bool:
    new = KeySet(("id", row.tobytes()) for row in digest_column(pq.read_table(copy.path, columns=["_id"]), "_id"))
    return any(carries(ids := digest_column(table, "_id"), ids, new).any() for table in copied_keys(lake, [other]))
