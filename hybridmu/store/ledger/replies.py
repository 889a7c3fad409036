"""Answers that Fides waits for: one a privacy request, due when our request is purged, gone when it was taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.lease import WEBHOOKS, fence
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.types import RequestState

_REPLIES = t.replies.c


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        name: Of the privacy request there.
        request_id: Of the request here.
        path: Where it goes, behind the address of the configuration.
        token: That lets it be taken.
        attempts: How often it was tried.
        first_tried_at: When it was tried first; None: not yet.
    """

    name: str
    request_id: str
    path: str
    token: str
    attempts: int
    first_tried_at: float | None


class Replies:
    """The answers of one system.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def keep(self, name: str, request_id: str, path: str, token: str) -> None:
        """Keep an answer that is to be given; asked again, the newest path and token count.

        Args:
            name: Of the privacy request there.
            request_id: Of the request here.
            path: Where it goes.
            token: That lets it be taken.
        """
        values = {"request_id": request_id, "path": path, "token": mask(token.encode()), "created_at": time.time()}
        with self._write.begin() as connection:
            connection.execute(t.replies.delete().where(_REPLIES.name == name))
            connection.execute(t.replies.insert().values(name=name, **values))

    def due(self, limit: int, longest: float) -> list[Reply]:
        """Return the answers that can be given now: their requests are purged.

        Args:
            limit: At most so many, the oldest ones.
            longest: No try is put off for more seconds than this.
        """
        now = time.time()
        due = (_REPLIES.next_at <= now) | (_REPLIES.next_at > now + longest)
        over = t.requests.c.state == RequestState.PURGED
        query = t.replies.select().join(t.requests, t.requests.c.request_id == _REPLIES.request_id)
        query = query.where(over & due & _REPLIES.dead_at.is_(None)).order_by(_REPLIES.created_at).limit(limit)
        with self._read.begin() as connection:
            return [
                Reply(row.name, row.request_id, row.path, unmask(row.token).decode(), row.attempts, row.first_tried_at)
                for row in connection.execute(query)
            ]

    def taken(self, token: int, name: str) -> None:
        """Forget an answer that was taken, fenced."""
        with self._write.begin() as connection:
            fence(connection, token, WEBHOOKS)
            connection.execute(t.replies.delete().where(_REPLIES.name == name))

    def failed(self, token: int, name: str, problem: str, next_at: float, *, dead: bool) -> None:
        """Note that a try failed, fenced.

        Args:
            token: Of the lease.
            name: Of the privacy request there.
            problem: Why, in our own words: at most 80 characters.
            next_at: When it is to be tried again.
            dead: Give it up.
        """
        now = time.time()
        values: dict[str, Any] = {"attempts": _REPLIES.attempts + 1, "problem": problem, "next_at": next_at}
        values |= {"first_tried_at": sa.func.coalesce(_REPLIES.first_tried_at, now), "dead_at": now if dead else None}
        with self._write.begin() as connection:
            fence(connection, token, WEBHOOKS)
            connection.execute(t.replies.update().where(_REPLIES.name == name).values(**values))

    def counts(self) -> tuple[int, int]:
        """Return how many answers wait, and how many of these were given up."""
        query = sa.select(sa.func.count(), sa.func.count(_REPLIES.dead_at)).select_from(t.replies)
        with self._read.begin() as connection:
            waiting, dead = connection.execute(query).one()
            return int(waiting), int(dead)
