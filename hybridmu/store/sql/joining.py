"""Calls about rows that are being forgotten already: the requests that they are pointed to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.store.sql import tables as t
from hybridmu.store.sql.database import parts
from hybridmu.store.sql.filing import taken_up
from hybridmu.store.sql.links import tell_again
from hybridmu.types import ForgetRequest, RequestState, StrategyChoice, Tombstone

WAITING = (RequestState.RECEIVED, RequestState.PLANNED)


def owners(connection: Connection, covering: Sequence[Tombstone], purged: Sequence[bytes]) -> list[str]:
    """Return the requests that revoked rows of a call, purged ones included."""
    ids = {stone.request_id for stone in covering}
    for part in parts(sorted(set(purged))):
        ids |= set(connection.scalars(sa.select(t.guard.c.request_id).where(t.guard.c.mac.in_(part))))
    return sorted(ids)


def take_up(connection: Connection, request_ids: Sequence[str], strategy: StrategyChoice) -> None:
    """Let those of these requests that failed be tried again, the way they are asked for now."""
    for part in parts(request_ids):
        failed = t.requests.c.request_id.in_(part) & (t.requests.c.state == RequestState.FAILED)
        connection.execute(t.requests.update().where(failed).values(strategy=strategy, reason=None, **taken_up()))


def least_advanced(connection: Connection, request_ids: Sequence[str]) -> ForgetRequest | None:
    """Return the request among these that will be the last to end, the newest among equals."""
    life = list(RequestState)
    rows = [
        row
        for part in parts(request_ids)
        for row in connection.execute(t.requests.select().where(t.requests.c.request_id.in_(part)))
    ]
    best = min(rows, key=lambda row: (life.index(RequestState(row.state)), -row.seq), default=None)
    return to_request(best) if best is not None else None


def waiting_for(connection: Connection, stones: Sequence[Tombstone], exactly: bool) -> ForgetRequest | None:
    """Return the newest open request that waits for all these tombstones: one of theirs, else one without its own."""
    upto = {stone.shard: stone.seq for stone in stones}  # they are in commit order
    open_ = sa.and_(t.requests.c.state.in_(WAITING), t.requests.c.strategy == "retrain" if exactly else sa.true())
    bare = t.requests.select().where(open_ & (t.requests.c["keys"] == 0))
    rows = {row.seq: row for row in connection.execute(bare)}
    for part in parts(sorted({stone.request_id for stone in stones})):
        theirs = t.requests.select().where(open_ & t.requests.c.request_id.in_(part))
        rows |= {row.seq: row for row in connection.execute(theirs)}
    waits: dict[str, dict[int, int]] = {row.request_id: {} for row in rows.values()}
    for part in parts(list(waits)):
        for need in connection.execute(t.needs.select().where(t.needs.c.request_id.in_(part))):
            waits[need.request_id][need.shard] = need.upto
    for row in sorted(rows.values(), key=lambda row: (row.keys > 0, row.seq), reverse=True):
        if all(waits[row.request_id].get(shard, 0) >= seq for shard, seq in upto.items()):
            return to_request(row)
    return None


def join(connection: Connection, request_id: str, caller: str, deadline: float | None) -> None:
    """Note that another call was pointed to a request, and let the earlier deadline hold until it is purged."""
    mine = t.requests.c.request_id == request_id
    connection.execute(t.requests.update().where(mine & (t.requests.c.caller != caller)).values(joined=True))
    if deadline is not None:
        hasten(connection, request_id, deadline)


def hasten(connection: Connection, request_id: str, deadline: float) -> None:
    """Let a request's deadline be this one, where that is earlier and the request is not purged."""
    mine = t.requests.c.request_id == request_id
    later = t.requests.c.deadline_at.is_(None) | (t.requests.c.deadline_at > deadline)
    open_ = t.requests.c.purged_at.is_(None)
    if connection.execute(t.requests.update().where(mine & later & open_).values(deadline_at=deadline)).rowcount:
        tell_again(connection, request_id)


def to_request(row: Row[Any]) -> ForgetRequest:
    """Return a row of the table of requests as a value."""
    fields = {name: getattr(row, name) for name in ForgetRequest.__dataclass_fields__ if name != "state"}
    return ForgetRequest(state=RequestState(row.state), **fields)
