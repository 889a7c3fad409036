"""Forwards: which requests of a model the linked ones have, and what they are told.

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
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.store.ledger.request_rows import BEGUN, begin_earlier, taken_up
from hybridmu.types import ForwardState, NamedKey, RequestState, StrategyChoice


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


class Forwards:
    """Forwards of one model.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

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
            query = query.where(BEGUN)
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
        """Note that a model has a request. It is not fenced: it is true, from whichever process.

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
            clear_outbox(connection)

    def note(self, forwards: Collection[Forward], reason: str) -> None:
        """Write down why forwards are not there yet."""
        with self._write.begin() as connection:
            for forward in forwards:
                mine = (t.forwards.c.request_id == forward.request_id) & (t.forwards.c.system == forward.system)
                still = mine & (t.forwards.c.state == ForwardState.WAITING)
                connection.execute(t.forwards.update().where(still).values(tried_at=time.time(), reason=reason))

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


# ---------------------------------------------------------------------- in the transactions of others


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


def clear_outbox(connection: Connection) -> None:
    """Drop what no linked model has to be told of any more."""
    waiting = sa.select(t.forwards.c.request_id).where(t.forwards.c.state == ForwardState.WAITING)
    connection.execute(t.outbox.delete().where(t.outbox.c.request_id.not_in(waiting)))


def _packed(keys: Sequence[NamedKey]) -> bytes:
    packed = [[key.kind, key.key.hex(), key.mac.hex(), key.mac_key, key.listed.hex()] for key in keys]
    return mask(json.dumps(packed).encode())


def _unpacked(data: bytes) -> tuple[NamedKey, ...]:
    return tuple(
        NamedKey(kind, bytes.fromhex(key), bytes.fromhex(mac), mac_key, *map(bytes.fromhex, listed))
        for kind, key, mac, mac_key, *listed in json.loads(unmask(data))  # an earlier release wrote none
    )


def _to_forward(row: Row[Any]) -> Forward:
    return Forward(row.request_id, row.system, ForwardState(row.state), row.there, row.tried_at, row.reason)
