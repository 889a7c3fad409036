"""Webhooks as the ledger sees them: receivers, what they have still to be told, and what was given up."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine, Row

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.lease import WEBHOOKS, Lease, fence
from hybridmu.store.ledger.webhook_outbox import overdue_requests, tell_overdue

_EVENTS = t.webhook_events.c


@dataclass(frozen=True)
class Message:
    """What one receiver is to be told next of one request.

    Attributes:
        seq: Its number; of one receiver and request, a later event has a greater one.
        receiver: Who is told.
        request_id: Of which request.
        event: What happened.
        message_id: Its name, the same at every try.
        caller: Who asked for the request.
        facts: State, versions, certificate and times of the request when it happened.
        occurred_at: When that was, in seconds since the epoch.
        attempts: How often it was tried.
        first_tried_at: When it was tried first; None: not yet.
    """

    seq: int
    receiver: str
    request_id: str
    event: str
    message_id: str
    caller: str
    facts: Mapping[str, Any]
    occurred_at: float
    attempts: int
    first_tried_at: float | None


@dataclass(frozen=True)
class ReceiverCounts:
    """How far a receiver has been told.

    Attributes:
        name: The receiver.
        events: What it is told of.
        removed: Whether no configuration names it any more: nothing is written for it, and nothing is sent.
        waiting: Events that it has still to be told, without those that were given up.
        dead: Events that were given up; later ones of the same requests wait behind them.
        oldest_at: When the oldest of all these happened; None without one.
        problem: Of the last try of one that waits or was given up.
    """

    name: str
    events: tuple[str, ...]
    removed: bool
    waiting: int
    dead: int
    oldest_at: float | None
    problem: str | None


class Webhooks:
    """The outbox, and its receivers.

    Args:
        engine: From `opening.connect`.

    Attributes:
        lease: Who sends.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)
        self.lease = Lease(engine, WEBHOOKS)

    # ------------------------------------------------------------------ receivers

    def register(self, wanted: Mapping[str, Collection[str]]) -> None:
        """Write events for new receivers from now on; those that are known stay as they are.

        Args:
            wanted: Receiver → events.
        """
        with self._read.begin() as connection:
            new = set(wanted) - set(connection.scalars(sa.select(t.webhook_receivers.c.name)))
        if new:
            self._put({name: wanted[name] for name in new}, keep=True)

    def configure(self, wanted: Mapping[str, Collection[str]]) -> None:
        """Write events for these receivers and no others from now on; what the others were not told of stays.

        Args:
            wanted: Receiver → events.
        """
        query = sa.select(t.webhook_receivers).where(t.webhook_receivers.c.removed_at.is_(None))
        with self._read.begin() as connection:
            known = {row.name: row.events for row in connection.execute(query)}
        if known != {name: " ".join(events) for name, events in wanted.items()}:
            self._put(wanted, keep=False)

    def _put(self, wanted: Mapping[str, Collection[str]], *, keep: bool) -> None:
        receivers, now = t.webhook_receivers.c, time.time()
        with self._write.begin() as connection:
            known = set(connection.scalars(sa.select(receivers.name)))
            if not keep:
                gone = receivers.name.not_in(list(wanted)) & receivers.removed_at.is_(None)
                connection.execute(t.webhook_receivers.update().where(gone).values(removed_at=now))
            for name, events in wanted.items():
                values = {"events": " ".join(events), "removed_at": None}
                if name not in known:
                    connection.execute(t.webhook_receivers.insert().values(name=name, added_at=now, **values))
                elif not keep:
                    connection.execute(t.webhook_receivers.update().where(receivers.name == name).values(**values))

    # ------------------------------------------------------------------ sending

    def note_overdue(self) -> int:
        """Return of how many requests it was written, just now, that their deadline is past."""
        with self._read.begin() as connection:  # most calls find nothing and need not write
            if connection.scalar(overdue_requests().limit(1)) is None:
                return 0
        with self._write.begin() as connection:
            return tell_overdue(connection)

    def due(self, receiver: str, limit: int, longest: float) -> list[Message]:
        """Return what a receiver can be told now: of each request the first event that it has not acknowledged.

        Args:
            receiver: Its name.
            limit: At most so many, the oldest ones.
            longest: No try is put off for more seconds than this; one that seems to be was, by a clock gone wrong.
        """
        before = t.webhook_events.alias("before")
        earlier = sa.exists().where(
            (before.c.receiver == _EVENTS.receiver)
            & (before.c.request_id == _EVENTS.request_id)
            & (before.c.seq < _EVENTS.seq)
        )
        now = time.time()
        due = (_EVENTS.next_at <= now) | (_EVENTS.next_at > now + longest)
        there = (_EVENTS.receiver == receiver) & _EVENTS.dead_at.is_(None) & due
        query = sa.select(t.webhook_events, t.requests.c.caller)
        query = query.join(t.requests, t.requests.c.request_id == _EVENTS.request_id)
        query = query.where(there & ~earlier).order_by(_EVENTS.seq).limit(limit)
        with self._read.begin() as connection:
            return [_to_message(row) for row in connection.execute(query)]

    def acknowledged(self, token: int, message: Message) -> None:
        """Forget what a receiver has been told of, fenced.

        Args:
            token: Of the lease.
            message: What it acknowledged.
        """
        with self._write.begin() as connection:
            fence(connection, token, WEBHOOKS)
            connection.execute(t.webhook_events.delete().where(_EVENTS.seq == message.seq))

    def failed(self, token: int, message: Message, problem: str, next_at: float, *, dead: bool) -> None:
        """Note that a try failed, fenced.

        Args:
            token: Of the lease.
            message: What was tried.
            problem: Why, in our own words: at most 80 characters.
            next_at: When it is to be tried again.
            dead: Give it up.
        """
        now = time.time()
        values: dict[str, Any] = {"attempts": _EVENTS.attempts + 1, "problem": problem, "next_at": next_at}
        values |= {"first_tried_at": sa.func.coalesce(_EVENTS.first_tried_at, now), "dead_at": now if dead else None}
        with self._write.begin() as connection:
            fence(connection, token, WEBHOOKS)
            connection.execute(t.webhook_events.update().where(_EVENTS.seq == message.seq).values(**values))

    # ------------------------------------------------------------------ what an operator sees and does

    def counts(self) -> list[ReceiverCounts]:
        """Return how far each receiver has been told, by name."""
        dead, found = sa.func.count(_EVENTS.dead_at), []
        query = sa.select(_EVENTS.receiver, sa.func.count(), dead, sa.func.min(_EVENTS.occurred_at))
        last = sa.select(_EVENTS.problem).where(_EVENTS.problem.is_not(None)).order_by(_EVENTS.next_at.desc()).limit(1)
        with self._read.begin() as connection:
            rows = connection.execute(query.group_by(_EVENTS.receiver)).all()
            there = {name: (count - given_up, given_up, oldest) for name, count, given_up, oldest in rows}
            for row in connection.execute(t.webhook_receivers.select().order_by(t.webhook_receivers.c.name)):
                waiting, given_up, oldest = there.get(row.name, (0, 0, None))
                problem = connection.scalar(last.where(_EVENTS.receiver == row.name)) if row.name in there else None
                events = tuple(row.events.split())
                removed = row.removed_at is not None
                found.append(ReceiverCounts(row.name, events, removed, waiting, given_up, oldest, problem))
        return found

    def dead(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return events that were given up, oldest first.

        Args:
            limit: At most so many.
        """
        names = ("receiver", "request_id", "event", "occurred_at", "attempts", "problem", "dead_at")
        query = sa.select(*(_EVENTS[name] for name in names)).where(_EVENTS.dead_at.is_not(None))
        with self._read.begin() as connection:
            return [dict(row._mapping) for row in connection.execute(query.order_by(_EVENTS.seq).limit(limit))]

    def retry(self, receiver: str | None = None, request_id: str | None = None) -> int:
        """Return how many events that were given up, or that wait for their next try, are tried again at once.

        Args:
            receiver: Only this one's.
            request_id: Only this request's.

        Raises:
            StateError: There is no such receiver.
        """
        values = {"dead_at": None, "next_at": 0.0, "attempts": 0, "first_tried_at": None}
        with self._write.begin() as connection:
            self._refuse_unknown(connection, receiver)
            tried = _of(receiver, request_id) & (_EVENTS.attempts > 0)
            return connection.execute(t.webhook_events.update().where(tried).values(**values)).rowcount

    def drop(self, receiver: str, request_id: str | None = None) -> int:
        """Return how many events of a receiver were deleted, which it will never be told of.

        A receiver that was removed and has none left is forgotten.

        Args:
            receiver: Its name.
            request_id: Only this request's.

        Raises:
            StateError: There is no such receiver.
        """
        with self._write.begin() as connection:
            self._refuse_unknown(connection, receiver)
            count = connection.execute(t.webhook_events.delete().where(_of(receiver, request_id))).rowcount
            left = sa.exists().where(_EVENTS.receiver == receiver)
            over = (t.webhook_receivers.c.name == receiver) & t.webhook_receivers.c.removed_at.is_not(None) & ~left
            connection.execute(t.webhook_receivers.delete().where(over))
            return count

    def _refuse_unknown(self, connection: sa.Connection, receiver: str | None) -> None:
        """Refuse a receiver that the ledger does not know."""  # noqa: DOC501 - helper of two
        query = sa.select(t.webhook_receivers.c.name).order_by(t.webhook_receivers.c.name)
        names = list(connection.scalars(query))
        if receiver is not None and receiver not in names:
            raise StateError(
                f"there is no receiver {receiver!r}",
                expected=" or ".join(names) or "a receiver; none was ever configured",
                remedy="see `hybridmu webhooks list`",
            )


def _of(receiver: str | None, request_id: str | None) -> sa.ColumnElement[bool]:
    mine = sa.true() if receiver is None else _EVENTS.receiver == receiver
    return mine if request_id is None else mine & (_EVENTS.request_id == request_id)


def _to_message(row: Row[Any]) -> Message:
    return Message(
        row.seq,
        row.receiver,
        row.request_id,
        row.event,
        row.message_id,
        row.caller,
        json.loads(row.document),
        row.occurred_at,
        row.attempts,
        row.first_tried_at,
    )
