"""Writing down a request, what it revokes and what it waits for; each inside the caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import RequestError
from hybridmu.store.sql import tables as t
from hybridmu.store.sql.assessment import Assessment
from hybridmu.store.sql.database import parts
from hybridmu.types import RequestState, ResolvedKey, Tombstone


def bury(
    connection: Connection,
    request_id: str,
    fresh: Sequence[tuple[ResolvedKey, int]],
    unremoved: Sequence[Tombstone],
) -> None:
    """Write tombstones and what the request waits for."""
    if fresh:
        connection.execute(
            t.tombstones.insert(),
            [
                {"request_id": request_id, "kind": k.kind, "key": k.key, "shard": k.shard, "slice": k.slice, "rows": n}
                for k, n in fresh
            ],
        )
    own = sa.select(t.tombstones.c.shard, sa.func.max(t.tombstones.c.seq)).where(
        t.tombstones.c.request_id == request_id
    )
    upto = {row[0]: row[1] for row in connection.execute(own.group_by(t.tombstones.c.shard))}
    for stone in unremoved:
        upto[stone.shard] = max(upto.get(stone.shard, 0), stone.seq)
    connection.execute(
        t.needs.insert(),
        [{"request_id": request_id, "shard": shard, "upto": seq} for shard, seq in sorted(upto.items())],
    )


def end_at_once(connection: Connection, request_id: str, reason: str, now: float, values: dict[str, Any]) -> None:
    """Write a request that touches no row here: PURGED, without a certificate."""
    version = connection.scalar(sa.select(t.serving.c.version))
    times = dict.fromkeys(("applied_at", "served_at", "exact_at", "purged_at"), now)
    versions = dict.fromkeys(("version_before", "version_after", "version_exact"), version)
    mine = {"request_id": request_id, "state": RequestState.PURGED, "keys": 0, "reason": reason}
    connection.execute(t.requests.insert().values(**mine, **times, **versions, **values))


def being_forgotten(found: Assessment) -> RequestError:
    """Return why rows that are revoked can't be corrected."""
    requests = sorted({stone.request_id for stone in found.covering})
    return RequestError(
        f"{len({(key.kind, key.key) for key in found.known})} row(s) to be corrected are revoked already",
        expected="live rows; nothing was changed",
        got=f"rows of request(s) {', '.join(requests[:5])}",
        remedy="once the request is PURGED, `readmit` their ids and `ingest` the corrected rows",
    )


def taken_up() -> dict[str, Any]:
    """Return the columns of a request that can't be cancelled any more; of several moments the first is kept."""
    return {"state": RequestState.PLANNED, "planned_at": sa.func.coalesce(t.requests.c.planned_at, time.time())}


def set_values(connection: Connection, request_ids: Sequence[str], **values: Any) -> None:
    """Set columns of requests."""
    for part in parts(list(request_ids)):
        connection.execute(t.requests.update().where(t.requests.c.request_id.in_(part)).values(**values))
