"""Models over the same people, as one of them knows the others: who they are, and what they start from."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader, transaction
from hybridmu.store.ledger.forwards import clear_outbox
from hybridmu.store.ledger.request_rows import BEGUN
from hybridmu.types import ForwardState, Key, KeySet, NamedKey

_PREDECESSOR = "predecessor"


@dataclass(frozen=True)
class Link:
    """Another model over the same people.

    Attributes:
        system: Random name of its system.
        name: For people; unique among the links of a model.
        settings: Its configuration as plain data.
        linked_at: Since when, in seconds since the epoch, UTC.
        settled_at: When all that either had forgotten before was known to both; None: link them again.
        retired_at: Since when it is no more.
    """

    system: str
    name: str
    settings: dict[str, Any]
    linked_at: float
    settled_at: float | None
    retired_at: float | None


class Links:
    """Linked models of one model.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    # ------------------------------------------------------------------ who

    def all(self) -> list[Link]:
        """Return every link that was ever made, retired ones included, oldest first."""
        with self._read.begin() as connection:
            return _named(connection.execute(t.links.select().order_by(t.links.c.linked_at, t.links.c.system)).all())

    def live(self) -> list[Link]:
        """Return the links that are not retired."""
        return [link for link in self.all() if link.retired_at is None]

    def add(self, system: str, name: str, settings: dict[str, Any]) -> None:
        """Write a link, or what is new about it; from the commit on every request accepted here is forwarded there."""
        values = {"name": name[:64], "settings": json.dumps(settings), "retired_at": None}
        with transaction(self._write, "link") as connection:
            mine = t.links.c.system == system
            if connection.execute(t.links.update().where(mine).values(**values)).rowcount == 0:
                connection.execute(t.links.insert().values(system=system, linked_at=time.time(), **values))

    def settle(self, system: str) -> None:
        """Note that everything either side had forgotten is known to both."""
        with self._write.begin() as connection:
            connection.execute(t.links.update().where(t.links.c.system == system).values(settled_at=time.time()))

    def retire(self, system: str, reason: str) -> None:
        """End a link; what was not forwarded there need not be any more."""
        with transaction(self._write, "link") as connection:
            mine = (t.links.c.system == system) & t.links.c.retired_at.is_(None)
            connection.execute(t.links.update().where(mine).values(retired_at=time.time()))
            waiting = (t.forwards.c.system == system) & (t.forwards.c.state == ForwardState.WAITING)
            connection.execute(t.forwards.update().where(waiting).values(state=ForwardState.RETIRED, reason=reason))
            clear_outbox(connection)

    def succeeds(self, system: str) -> None:
        """Note that this model gets its rows from another one, and not from source tables."""
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == _PREDECESSOR))
            connection.execute(t.meta.insert().values(key=_PREDECESSOR, value=system))

    def predecessor(self) -> str | None:
        """Return the system that this model gets its rows from; None: it reads source tables."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _PREDECESSOR))

    # ------------------------------------------------------------------ what links start from

    def remembered(self) -> dict[bytes, tuple[NamedKey, float]]:
        """Return HMAC → (key, since when) of every entry of the guard that stays.

        Left out are those of requests that may still be cancelled, and those that a correction brings back.
        """
        since = sa.select(t.guard, t.requests.c.received_at).join(
            t.requests, t.requests.c.request_id == t.guard.c.request_id, isouter=True
        )
        kept = ~t.guard.c.returns & (t.requests.c.request_id.is_(None) | BEGUN)
        with self._read.begin() as connection:
            return {
                bytes(row.mac): (
                    NamedKey(row.kind, b"", bytes(row.mac), row.key_id, bytes(row.listed or b"")),
                    row.received_at or 0.0,
                )
                for row in connection.execute(since.where(kept))
            }

    def readmitted(self) -> dict[bytes, float]:
        """Return HMAC → when it was let back in last."""
        with self._read.begin() as connection:
            query = sa.select(t.readmissions.c.mac, sa.func.max(t.readmissions.c.at)).group_by(t.readmissions.c.mac)
            return {bytes(mac): at for mac, at in connection.execute(query)}

    def revoked(self) -> tuple[KeySet, float | None]:
        """Return (what the guard does not name, the earliest deadline of a request that is not purged).

        The first are (kind, digest) of tombstones that are not emptied, of requests whose entries were given up with
        their guard key. Left out are requests that may still be cancelled, and corrections.
        """
        corrected = sa.select(t.ingestions.c.after_request).where(t.ingestions.c.after_request.is_not(None))
        deadlines = sa.select(sa.func.min(t.requests.c.deadline_at)).where(BEGUN & t.requests.c.purged_at.is_(None))
        query = (
            sa
            .select(t.tombstones.c.kind, t.tombstones.c.key)
            .join(t.requests, t.requests.c.request_id == t.tombstones.c.request_id)
            .where(t.tombstones.c.key.is_not(None) & BEGUN & t.tombstones.c.request_id.not_in(corrected))
            .where(t.tombstones.c.request_id.not_in(sa.select(t.guard.c.request_id)))
        )
        with self._read.begin() as connection:
            keys = KeySet((row.kind, bytes(row.key)) for row in connection.execute(query))
            return keys, connection.scalar(deadlines)

    def snapshot(self) -> tuple[dict[int, KeySet], int]:
        """Return (shard → tombstoned keys whose rows a successor must not get, the highest tombstone number).

        A request that may still be cancelled leaves its rows in: the successor is told of it when it can't be any more.
        """
        query = t.tombstones.select().join(t.requests, t.requests.c.request_id == t.tombstones.c.request_id)
        with self._read.begin() as connection:
            found: dict[int, set[Key]] = {}
            for row in connection.execute(query.where(t.tombstones.c.key.is_not(None) & BEGUN)):
                found.setdefault(row.shard, set()).add((row.kind, bytes(row.key)))
            highest = connection.scalar(sa.select(sa.func.max(t.tombstones.c.seq)))
        return {shard: KeySet(keys) for shard, keys in found.items()}, int(highest or 0)


def _named(rows: Sequence[Row[Any]]) -> list[Link]:
    """Return links under names of which no two are the same."""
    names = [row.name for row in rows]
    return [
        Link(
            system=row.system,
            name=row.name if names.count(row.name) == 1 else f"{row.name}-{row.system[:6]}",
            settings=json.loads(row.settings),
            linked_at=row.linked_at,
            settled_at=row.settled_at,
            retired_at=row.retired_at,
        )
        for row in rows
    ]


def live_systems(connection: Connection) -> list[str]:
    """Return the systems of the models that are linked now."""
    return list(connection.scalars(sa.select(t.links.c.system).where(t.links.c.retired_at.is_(None))))
