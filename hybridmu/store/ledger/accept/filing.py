"""Writing down a request, what it revokes and what it waits for; each inside the caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import RequestError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.assessment import Assessment
from hybridmu.store.ledger.database import parts
from hybridmu.types import KeySet, RequestState, ResolvedKey


def bury(
    connection: Connection,
    request_id: str,
    fresh: Sequence[tuple[ResolvedKey, int]],
    waits: Mapping[int, int],
) -> None:
    """Write tombstones and what the request waits for.

    Args:
        connection: In a write transaction.
        request_id: The request.
        fresh: Its keys, with the training rows that each alone revokes; one that it buried before is counted anew.
        waits: Shard → up to which of others' tombstones it waits as well.
    """
    stones = t.tombstones.c
    mine = sa.select(stones.kind, stones.key, stones.shard, stones.slice, stones.seq).where(
        stones.request_id == request_id
    )
    there = {tuple(row[:4]): row.seq for row in connection.execute(mine)}
    new = []
    for k, rows in fresh:
        if seq := there.get((k.kind, k.key, k.shard, k.slice)):
            connection.execute(t.tombstones.update().where(stones.seq == seq).values(rows=rows))
        else:
            place = {"kind": k.kind, "key": k.key, "shard": k.shard, "slice": k.slice}
            new.append({"request_id": request_id, "rows": rows, **place})
    if new:
        connection.execute(t.tombstones.insert(), new)
    own = sa.select(stones.shard, sa.func.max(stones.seq)).where(stones.request_id == request_id)
    upto = dict(waits)
    for shard, seq in connection.execute(own.group_by(stones.shard)):
        upto[shard] = max(upto.get(shard, 0), seq)
    connection.execute(
        t.needs.insert(),
        [{"request_id": request_id, "shard": shard, "upto": seq} for shard, seq in sorted(upto.items())],
    )


def end_at_once(connection: Connection, now: float, reason: str, values: dict[str, Any]) -> None:
    """Write a request that touches no row here: PURGED, without a certificate of its own."""
    version = connection.scalar(sa.select(t.serving.c.version))
    times = dict.fromkeys(("applied_at", "served_at", "exact_at", "purged_at"), now)
    versions = dict.fromkeys(("version_before", "version_after", "version_exact"), version)
    mine = {"state": RequestState.PURGED, "keys": 0, "reason": reason}
    connection.execute(t.requests.insert().values(**mine, **times, **versions, **values))


def being_forgotten(found: Assessment) -> RequestError:
    """Return why rows that are revoked can't be corrected."""
    requests = sorted({stone.request_id for stone in found.covering})
    return RequestError(
        f"{len(KeySet.of(found.known))} row(s) to be corrected are revoked already",
        expected="live rows; nothing was changed",
        got=f"rows of request(s) {', '.join(requests[:5])}",
        remedy="once the request is PURGED, `readmit` their ids and `ingest` the corrected rows",
    )


def taken_up() -> dict[str, Any]:
    """Return the columns of a request that can't be cancelled any more; of several moments the first is kept."""
    return {"state": RequestState.PLANNED, "planned_at": sa.func.coalesce(t.requests.c.planned_at, time.time())}


def begin_earlier(connection: Connection) -> None:
    """Take up what begun requests rely on, and drop the claims that no cancellation can call for any more.

    Belongs into every transaction that takes requests up.
    """
    later, earlier = t.requests.alias("later"), t.requests.alias("earlier")
    relied = sa.exists().where(
        (t.reliances.c.earlier == t.requests.c.request_id)
        & (later.c.request_id == t.reliances.c.request_id)
        & later.c.state.not_in((RequestState.RECEIVED, RequestState.CANCELLED))
    )
    received = t.requests.update().where((t.requests.c.state == RequestState.RECEIVED) & relied)
    while connection.execute(received.values(**taken_up())).rowcount:
        pass  # those may rely on others
    waiting = sa.exists().where(
        (t.reliances.c.request_id == t.claims.c.request_id)
        & (earlier.c.request_id == t.reliances.c.earlier)
        & (earlier.c.state == RequestState.RECEIVED)
    )
    connection.execute(t.claims.delete().where(~waiting))


def set_values(connection: Connection, request_ids: Sequence[str], **values: Any) -> None:
    """Set columns of requests."""
    for part in parts(list(request_ids)):
        connection.execute(t.requests.update().where(t.requests.c.request_id.in_(part)).values(**values))
