"""Rows of requests: as values, and the changes of state that several transactions share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.types import ForgetRequest, RequestState

# What was asked here can be cancelled until it is begun; what another model passed on can't be.
BEGUN = (t.requests.c.state != RequestState.CANCELLED) & (
    (t.requests.c.state != RequestState.RECEIVED) | t.requests.c.origin.is_not(None)
)


def to_request(row: Row[Any]) -> ForgetRequest:
    """Return a row of the table of requests as a value."""
    fields = {name: getattr(row, name) for name in ForgetRequest.__dataclass_fields__ if name != "state"}
    return ForgetRequest(state=RequestState(row.state), **fields)


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
