"""Operators' controls: pause and resume, and legal holds that keep rows from being purged."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader


@dataclass(frozen=True)
class Pause:
    """Why nothing is claimed now."""

    reason: str
    caller: str
    since: float


@dataclass(frozen=True)
class Hold:
    """A legal hold.

    Attributes:
        number: Its name.
        request_id: What it covers; None: every request.
        reason: Why.
        caller: Who placed it.
        placed_at: Seconds since the epoch, UTC.
    """

    number: int
    request_id: str | None
    reason: str
    caller: str
    placed_at: float


class Controls:
    """Pause and holds, kept in the ledger.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def pause(self, reason: str, caller: str) -> Pause:
        """Return the pause: no request is claimed any more; what runs is finished, requests are still accepted."""
        pause = Pause(reason, caller, time.time())
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == "pause"))
            connection.execute(t.meta.insert().values(key="pause", value=json.dumps(asdict(pause))))
        return pause

    def resume(self) -> None:
        """Claim requests again."""
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == "pause"))

    def paused(self) -> Pause | None:
        """Return the pause, or None while requests are claimed."""
        with self._read.begin() as connection:
            raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "pause"))
        return Pause(**json.loads(raw)) if raw else None

    def hold(self, request_id: str | None, reason: str, caller: str) -> Hold:
        """Return a new hold: what it covers is not purged until it is lifted.

        Raises:
            StateError: There is no such request, or it is purged already.
        """
        now = time.time()
        with self._write.begin() as connection:
            if request_id is not None:
                query = sa.select(t.requests.c.purged_at).where(t.requests.c.request_id == request_id)
                row = connection.execute(query).first()
                if row is None or row.purged_at is not None:
                    raise StateError(
                        f"request {request_id} can't be held",
                        expected="a request that is not purged",
                        got="none" if row is None else "a purged one",
                    )
            values = {"request_id": request_id, "reason": reason, "caller": caller, "placed_at": now}
            done = connection.execute(t.holds.insert().values(**values))
            key = done.inserted_primary_key
            assert key is not None
            return Hold(int(key[0]), request_id, reason, caller, now)

    def lift(self, number: int) -> None:
        """End a hold; it stays in the log.

        Raises:
            StateError: There is no such hold.
        """
        with self._write.begin() as connection:
            where = (t.holds.c.id == number) & t.holds.c.lifted_at.is_(None)
            if connection.execute(t.holds.update().where(where).values(lifted_at=time.time())).rowcount != 1:
                raise StateError(f"there is no hold {number}", remedy="list them with `hybridmu holds`")

    def holds(self) -> list[Hold]:
        """Return the holds that are not lifted."""
        with self._read.begin() as connection:
            query = t.holds.select().where(t.holds.c.lifted_at.is_(None)).order_by(t.holds.c.id)
            return [Hold(r.id, r.request_id, r.reason, r.caller, r.placed_at) for r in connection.execute(query)]
