"""Up to which tombstone the newest sub-model of each shard is free of revoked rows, and how many are revoked since."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts


def newest() -> sa.Subquery:
    """Return the newest sub-model record of every shard: shard, removed_upto, exact_upto."""
    last = (
        sa
        .select(t.version_shards.c.shard, sa.func.max(t.version_shards.c.version).label("version"))
        .group_by(t.version_shards.c.shard)
        .subquery()
    )
    return (
        sa
        .select(t.version_shards.c.shard, t.version_shards.c.removed_upto, t.version_shards.c.exact_upto)
        .join(last, (t.version_shards.c.shard == last.c.shard) & (t.version_shards.c.version == last.c.version))
        .subquery()
    )


def watermarks(connection: Connection, *, exactly: bool) -> dict[int, int]:
    """Return shard → its watermark in the newest version: of exact removals, or of all."""
    last = newest()
    return {row.shard: row.exact_upto if exactly else row.removed_upto for row in connection.execute(sa.select(last))}


def revoked_rows(
    connection: Connection, shards: Collection[int] | None = None
) -> dict[int, dict[int, tuple[int, int, int]]]:
    """Count revoked training rows against the newest sub-model of each shard; see `Ledger.counts`.

    Args:
        connection: In a transaction.
        shards: Which shards; all by default.

    Returns:
        Shard → slice → training rows (out of the last exact run, revoked since, of these not removed at all).
    """
    shard, slice_ = t.tombstones.c.shard, t.tombstones.c.slice
    seq, rows = t.tombstones.c.seq, t.tombstones.c.rows
    found: dict[int, dict[int, tuple[int, int, int]]] = {}
    marks = {row.shard: (row.exact_upto, row.removed_upto) for row in connection.execute(sa.select(newest()))}
    straddling = set()
    for part in [None] if shards is None else parts(sorted(shards)):
        # The database adds up whole slices; only those that a watermark divides are looked at row by row.
        query = sa.select(shard, slice_, sa.func.sum(rows), sa.func.min(seq), sa.func.max(seq))
        query = query.group_by(shard, slice_)
        for s, i, total, first, last in connection.execute(query if part is None else query.where(shard.in_(part))):
            exact, removed = marks.get(s, (0, 0))
            if first <= exact < last or first <= removed < last:
                straddling.add(s)
            count = int(total)
            base, fresh = (count if last <= exact else 0), (count if first > removed else 0)
            found.setdefault(s, {})[i] = (base, count - base, fresh)
    for part in parts(sorted(straddling)):
        for s in part:
            found[s] = {}
        for s, i, number, count in connection.execute(sa.select(shard, slice_, seq, rows).where(shard.in_(part))):
            exact, removed = marks[s]
            base, since, fresh = found[s].get(i, (0, 0, 0))
            found[s][i] = (
                base + count * (number <= exact),
                since + count * (number > exact),
                fresh + count * (number > removed),
            )
    return found
