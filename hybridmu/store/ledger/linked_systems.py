"""Models over the same people, as one of them knows the others: who they are, and which of its requests they have.

A request that is asked here leaves one *forward* per linked model, in the transaction that accepts it; what the others
need to know of it lies in the *outbox* until all of them have it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.filing import begin_earlier, taken_up
from hybridmu.store.ledger.database import parts, reader, transaction
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.types import ForwardState, Key, KeySet, NamedKey, RequestState, StrategyChoice

_PREDECESSOR = "predecessor"
# What was asked here can be cancelled until it is begun; what another model passed on can't be.
_BEGUN = (t.requests.c.state != RequestState.CANCELLED) & (
    (t.requests.c.state != RequestState.RECEIVED) | t.requests.c.origin.is_not(None)
)


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


@dataclass(frozen=True)
class Forward:
    """One request's copy for one linked model.

    Attributes:
        request_id: The request here.
        system: The model.
        state: Whether it has it.
        there: The request that it became there.
        tried_at: When it was tried last.
        reason: Why it is not there yet.
    """

    request_id: str
    system: str
    state: ForwardState
    there: str | None
    tried_at: float | None
    reason: str | None


@dataclass(frozen=True)
class Parcel:
    """What a linked model is told.

    Attributes:
        request_id: The request here.
        strategy: What its caller asked for.
        deadline_at: When it must be exact and purged.
        there: The request there, when that model has it already and learns of an earlier deadline.
        keys: What to forget; empty when it has it already.
    """

    request_id: str
    strategy: StrategyChoice
    deadline_at: float | None
    there: str | None
    keys: tuple[NamedKey, ...]


class Links:
    """Linked models and forwards of one model.

    Args:
        engine: From `database.connect`.
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
            _clear_outbox(connection)

    def succeeds(self, system: str) -> None:
        """Note that this model gets its rows from another one, and not from source tables."""
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == _PREDECESSOR))
            connection.execute(t.meta.insert().values(key=_PREDECESSOR, value=system))

    def predecessor(self) -> str | None:
        """Return the system that this model gets its rows from; None: it reads source tables."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _PREDECESSOR))

    # ------------------------------------------------------------------ forwards

    def of_request(self, request_id: str) -> list[Forward]:
        """Return the forwards of one request, in the order of the links."""
        query = t.forwards.select().join(t.links, t.links.c.system == t.forwards.c.system)
        query = query.where(t.forwards.c.request_id == request_id).order_by(t.links.c.linked_at, t.links.c.system)
        with self._read.begin() as connection:
            return [_to_forward(row) for row in connection.execute(query)]

    def waiting(self, *, begun: bool) -> list[Forward]:
        """Return the forwards that no model has yet, in the order in which their requests were accepted.

        Args:
            begun: Only those of requests that can't be cancelled any more: these are due.
        """
        query = t.forwards.select().join(t.requests, t.requests.c.request_id == t.forwards.c.request_id)
        query = query.where(t.forwards.c.state == ForwardState.WAITING).order_by(t.requests.c.seq)
        if begun:
            query = query.where(_BEGUN)
        with self._read.begin() as connection:
            return [_to_forward(row) for row in connection.execute(query)]

    def parcel(self, forward: Forward) -> Parcel:
        """Return what a model is told of a request."""
        mine = t.requests.c.request_id == forward.request_id
        with self._read.begin() as connection:
            request = connection.execute(t.requests.select().where(mine)).one()
            data = connection.scalar(sa.select(t.outbox.c.document).where(t.outbox.c.request_id == forward.request_id))
        keys = () if data is None or forward.there else _unpacked(data)
        return Parcel(forward.request_id, request.strategy, request.deadline_at, forward.there, keys)

    def mark_delivered(self, forward: Forward, parcel: Parcel, there: str) -> None:
        """Note that a model has a request. It is not fenced: it is true, whoever found it out.

        Args:
            forward: The forward.
            parcel: What that model was told; a deadline that is earlier by now has still to be told.
            there: The request there.
        """
        mine = (t.forwards.c.request_id == forward.request_id) & (t.forwards.c.system == forward.system)
        request = sa.select(t.requests.c.deadline_at).where(t.requests.c.request_id == forward.request_id)
        with transaction(self._write, "forward") as connection:
            told = connection.scalar(request) == parcel.deadline_at
            state = ForwardState.DELIVERED if told else ForwardState.WAITING
            values = {"state": state, "there": there, "tried_at": time.time(), "reason": None}
            still = mine & (t.forwards.c.state == ForwardState.WAITING)
            connection.execute(t.forwards.update().where(still).values(**values))
            _clear_outbox(connection)

    def note(self, forwards: Collection[Forward], reason: str) -> None:
        """Write down why forwards are not there yet."""
        with self._write.begin() as connection:
            for forward in forwards:
                mine = (t.forwards.c.request_id == forward.request_id) & (t.forwards.c.system == forward.system)
                still = mine & (t.forwards.c.state == ForwardState.WAITING)
                connection.execute(t.forwards.update().where(still).values(tried_at=time.time(), reason=reason))

    # ------------------------------------------------------------------ what links start from

    def begin(self, system: str | None = None) -> None:
        """Take up requests that could still be cancelled, so that others may be told of them.

        Args:
            system: Only those of which this model has no forward: they are older than its link.
        """
        if system is None:
            mine = sa.select(t.forwards.c.request_id).where(t.forwards.c.state == ForwardState.WAITING)
            wanted = t.requests.c.request_id.in_(mine)
        else:
            wanted = t.requests.c.request_id.not_in(
                sa.select(t.forwards.c.request_id).where(t.forwards.c.system == system)
            )
        received = (t.requests.c.state == RequestState.RECEIVED) & t.requests.c.origin.is_(None)
        with self._write.begin() as connection:
            connection.execute(t.requests.update().where(received & wanted).values(**taken_up()))
            begin_earlier(connection)

    def remembered(self) -> dict[bytes, tuple[NamedKey, float]]:
        """Return HMAC → (key, since when) of every entry of the guard that stays.

        Left out are those of requests that may still be cancelled, and those that a correction brings back.
        """
        since = sa.select(t.guard, t.requests.c.received_at).join(
            t.requests, t.requests.c.request_id == t.guard.c.request_id, isouter=True
        )
        kept = ~t.guard.c.returns & (t.requests.c.request_id.is_(None) | _BEGUN)
        with self._read.begin() as connection:
            return {
                bytes(row.mac): (NamedKey(row.kind, b"", bytes(row.mac), row.key_id), row.received_at or 0.0)
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
        deadlines = sa.select(sa.func.min(t.requests.c.deadline_at)).where(_BEGUN & t.requests.c.purged_at.is_(None))
        query = (
            sa
            .select(t.tombstones.c.kind, t.tombstones.c.key)
            .join(t.requests, t.requests.c.request_id == t.tombstones.c.request_id)
            .where(t.tombstones.c.key.is_not(None) & _BEGUN & t.tombstones.c.request_id.not_in(corrected))
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
            for row in connection.execute(query.where(t.tombstones.c.key.is_not(None) & _BEGUN)):
                found.setdefault(row.shard, set()).add((row.kind, bytes(row.key)))
            highest = connection.scalar(sa.select(sa.func.max(t.tombstones.c.seq)))
        return {shard: KeySet(keys) for shard, keys in found.items()}, int(highest or 0)


# ---------------------------------------------------------------------- in the transactions of others


def live_systems(connection: Connection) -> list[str]:
    """Return the systems of the models that are linked now."""
    return list(connection.scalars(sa.select(t.links.c.system).where(t.links.c.retired_at.is_(None))))


def file_forwards(connection: Connection, request_id: str, systems: Sequence[str], keys: Sequence[NamedKey]) -> None:
    """Write that linked models must be told of a new request."""
    state = ForwardState.WAITING
    connection.execute(
        t.forwards.insert(), [{"request_id": request_id, "system": system, "state": state} for system in systems]
    )
    connection.execute(t.outbox.insert().values(request_id=request_id, document=_packed(keys)))


def withdraw_forwards(connection: Connection, request_id: str) -> None:
    """Forget the forwards of a request that was cancelled; no model was told of it yet."""
    for table in (t.forwards, t.outbox):
        connection.execute(table.delete().where(table.c.request_id == request_id))


def tell_again(connection: Connection, request_id: str) -> None:
    """Let models that have a request learn that its deadline is earlier now."""
    had = (t.forwards.c.request_id == request_id) & (t.forwards.c.state == ForwardState.DELIVERED)
    connection.execute(t.forwards.update().where(had).values(state=ForwardState.WAITING))


def undelivered(connection: Connection, request_ids: Sequence[str]) -> dict[str, str]:
    """Return which of these requests some linked model has not got yet, and why not."""
    found: dict[str, str] = {}
    for part in parts(list(request_ids)):
        query = sa.select(t.forwards.c.request_id, t.forwards.c.reason, t.links.c.name)
        query = query.join(t.links, t.links.c.system == t.forwards.c.system)
        waiting = t.forwards.c.request_id.in_(part) & (t.forwards.c.state == ForwardState.WAITING)
        for row in connection.execute(query.where(waiting).order_by(t.links.c.linked_at)):
            why = f": {row.reason}" if row.reason else ""
            found.setdefault(row.request_id, f"not purged: model {row.name} has not got it yet{why}")
    return found


def _clear_outbox(connection: Connection) -> None:
    waiting = sa.select(t.forwards.c.request_id).where(t.forwards.c.state == ForwardState.WAITING)
    connection.execute(t.outbox.delete().where(t.outbox.c.request_id.not_in(waiting)))


def _packed(keys: Sequence[NamedKey]) -> bytes:
    return mask(json.dumps([[key.kind, key.key.hex(), key.mac.hex(), key.mac_key] for key in keys]).encode())


def _unpacked(data: bytes) -> tuple[NamedKey, ...]:
    return tuple(
        NamedKey(kind, bytes.fromhex(key), bytes.fromhex(mac), mac_key)
        for kind, key, mac, mac_key in json.loads(unmask(data))
    )


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


def _to_forward(row: Row[Any]) -> Forward:
    return Forward(row.request_id, row.system, ForwardState(row.state), row.there, row.tried_at, row.reason)
