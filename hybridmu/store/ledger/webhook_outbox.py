"""Outbox of webhooks: events are written in the transaction of the change that they tell of, one row per receiver.

Where nobody is to be told, a change costs one look into an empty table.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.types import RequestEvent, RequestState

# Of a request, what an event keeps: numbers, times and words of our own. The caller's name is read when it is sent.
_KEPT = (
    *("state", "received_at", "deadline_at", "applied_at", "served_at", "exact_at", "purged_at"),
    *("version_after", "version_exact", "certificate"),
)
UNPURGED = t.requests.c.state.in_([s for s in RequestState if s not in {RequestState.PURGED, RequestState.CANCELLED}])


def tell(connection: Connection, request_ids: Collection[str], *events: RequestEvent) -> None:
    """Write that something happened to requests, for every receiver that wants to know of it.

    Belongs into the transaction that changes them, after the change.

    Args:
        connection: In a write transaction.
        request_ids: The requests.
        events: What happened to each of them, in order.
    """
    if not request_ids or not (wanted := _wanted(connection)):
        return
    now = time.time()
    found: dict[str, Row[Any]] = {}
    for part in parts(sorted(request_ids)):
        query = t.requests.select().where(t.requests.c.request_id.in_(part))
        found |= {row.request_id: row for row in connection.execute(query)}
    rows = [
        {
            "receiver": receiver,
            "request_id": request.request_id,
            "event": event,
            "message_id": f"msg_{uuid.uuid4().hex}",
            "document": json.dumps({name: request._mapping[name] for name in _KEPT}),
            "occurred_at": now,
        }
        for request in sorted(found.values(), key=lambda row: row.seq)
        for event in events
        for receiver, asked in wanted.items()
        if event in asked
    ]
    if rows:
        connection.execute(t.webhook_events.insert(), rows)


def changed(connection: Connection, where: Any, request_ids: Sequence[str]) -> list[str]:
    """Return those of some requests of which a condition holds: what an update with it is about to change.

    Args:
        connection: In a write transaction, so that nobody changes them in between.
        where: The condition.
        request_ids: The requests.
    """
    found: list[str] = []
    for part in parts(list(request_ids)):
        mine = t.requests.c.request_id.in_(part) & where
        found += connection.scalars(sa.select(t.requests.c.request_id).where(mine))
    return found


def tell_overdue(connection: Connection) -> int:
    """Return of how many requests it was written that their deadline is past; of each request once.

    Args:
        connection: In a write transaction.
    """
    late = list(connection.scalars(overdue_requests()))
    if late:
        connection.execute(t.overdue.insert(), [{"request_id": name, "told_at": time.time()} for name in late])
        tell(connection, late, "overdue")
    return len(late)


def overdue_requests() -> sa.Select[Any]:
    """Return the query for requests past their deadline of which nobody was told so."""
    told = sa.exists().where(t.overdue.c.request_id == t.requests.c.request_id)
    late = UNPURGED & (t.requests.c.deadline_at < time.time())
    return sa.select(t.requests.c.request_id).where(late & ~told)


def _wanted(connection: Connection) -> dict[str, set[str]]:
    """Return receiver → the events that it wants to be told of."""
    receivers = t.webhook_receivers.c
    query = sa.select(receivers.name, receivers.events).where(receivers.removed_at.is_(None)).order_by(receivers.name)
    return {row.name: set(row.events.split()) for row in connection.execute(query)}
