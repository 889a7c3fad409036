"""Idempotency keys: the same key of the same caller names the same request, whichever verb it came with.

Callers like to put an id into a key, and what is asked is ids. The ledger holds neither, but HMACs of both by the guard
key; of what is asked not even that once its rows are purged. Then a repeat is known by the ids and groups themselves:
it has to name exactly those that the guard remembers of the request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.errors import ConflictError, RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import parts

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Seal:
    """What one guard key makes of an idempotency key.

    Attributes:
        key_id: The guard key.
        name: HMAC of caller and idempotency key, 32 bytes.
        payload: HMAC of these and what is asked; None: not to be compared, the key is of one payload alone.
    """

    key_id: str
    name: bytes
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class RepeatKey:
    """An idempotency key and what came with it, as the ledger compares them.

    Attributes:
        seals: One per guard key, newest last: that one is remembered.
        macs: Per id and group that is asked, its HMACs by every guard key; None where it is not ids that are asked.
    """

    seals: tuple[Seal, ...]
    macs: tuple[frozenset[bytes], ...] | None = None


def seal(
    seals: Callable[[str, bytes], dict[str, bytes]],
    caller: str,
    key: str | None,
    payload: object,
    macs: Iterable[frozenset[bytes]] | None = None,
) -> RepeatKey | None:
    """Return an idempotency key as the ledger compares it, or None without one.

    Args:
        seals: `Guard.seals`.
        caller: Whose key it is; the same text is another key for another caller.
        key: As the caller gave it.
        payload: What is asked, options included; JSON. None: not to be compared.
        macs: As in `RepeatKey`.

    Raises:
        RequestError: The key is too long.
    """
    if key is None:
        return None
    if len(key) > _LONGEST:
        raise RequestError(
            "the idempotency key is too long", expected=f"at most {_LONGEST} characters", got=str(len(key))
        )
    name = json.dumps([caller, key]).encode()
    names = seals("idempotency key", name)
    asked = None if payload is None else seals("idempotency payload", json.dumps([caller, key, payload]).encode())
    made = tuple(Seal(key_id, each, asked[key_id] if asked else None) for key_id, each in names.items())
    return RepeatKey(made, None if macs is None else tuple(macs))


def repeated(connection: Connection, repeat: RepeatKey | None) -> str | None:
    """Return the name of the request or ingestion that a key names already.

    Args:
        connection: In any transaction.
        repeat: From `seal`; None names nothing.

    Raises:
        ConflictError: It came with another payload.
        StateError: Keys were remembered by a guard key that is lost: this may be one of them.
    """
    if repeat is None:
        return None
    seals = {made.name: made for made in repeat.seals}
    row = connection.execute(t.idempotency.select().where(t.idempotency.c.key.in_(list(seals)))).first()
    if row is None:
        _refuse_lost(connection, {made.key_id for made in repeat.seals})
        return None
    payload = seals[bytes(row.key)].payload
    if payload is None:
        return str(row.request_id)
    same = bytes(row.payload) == payload if row.payload is not None else _names_the_same(connection, row, repeat)
    if not same:
        raise ConflictError(
            "this idempotency key was used with another payload",
            expected="the same verb, rows and options"
            if row.payload is not None
            else f"exactly the ids and groups of request {row.request_id}: it is purged, and nothing else of what was "
            "asked is kept",
            remedy="use a new key for a new request",
        )
    return str(row.request_id)


def remember(connection: Connection, repeat: RepeatKey | None, name: str, *, over: bool = False) -> None:
    """Let a key name a request or ingestion, in the caller's write transaction.

    Args:
        connection: In a transaction.
        repeat: From `seal`; None: there is nothing to remember.
        name: The request or ingestion.
        over: Whether its rows are purged already: what was asked is not kept.
    """
    if repeat is not None:
        made = repeat.seals[-1]
        values = {"key": made.name, "key_id": made.key_id, "payload": None if over else made.payload}
        connection.execute(t.idempotency.insert().values(request_id=name, **values))


def forget_payloads(connection: Connection, request_ids: Iterable[str]) -> None:
    """Keep nothing of what these requests asked, in the caller's write transaction."""
    for part in parts(sorted(set(request_ids) - corrections(connection, request_ids))):
        connection.execute(t.idempotency.update().where(t.idempotency.c.request_id.in_(part)).values(payload=None))


def corrections(connection: Connection, request_ids: Iterable[str]) -> set[str]:
    """Return which of these requests are corrections: what came with their keys are rows that are not forgotten."""
    after = t.ingestions.c.after_request
    return {
        name
        for part in parts(sorted(request_ids))
        for name in connection.scalars(sa.select(after).where(after.in_(part)))
    }


def remembered_by(connection: Connection) -> list[str]:
    """Return the guard keys that made what is remembered; reads as many index entries as there are keys."""
    found: list[str] = []
    key_id = t.idempotency.c.key_id
    while name := connection.scalar(sa.select(sa.func.min(key_id)).where(key_id > (found[-1] if found else ""))):
        found.append(str(name))
    return found


def _refuse_lost(connection: Connection, have: set[str]) -> None:
    if lost := [key_id for key_id in remembered_by(connection) if key_id not in have]:
        raise StateError(
            "it can't be told whether this idempotency key was used before: a guard key is lost",
            expected=f"guard key(s) {', '.join(lost)}",
            remedy="restore the key files from their backup (docs/keys.md), or give the key up with `hybridmu guard "
            "accept-loss KEY --reason TEXT`: idempotency keys of its time are new ones then. A call without one is "
            "accepted as ever",
        )


def _names_the_same(connection: Connection, row: Row[tuple[object, ...]], repeat: RepeatKey) -> bool:
    """Return whether a call names exactly the ids and groups that are remembered of a purged request."""
    if repeat.macs is None:
        return False
    known: set[bytes] = set()
    for table in (t.guard, t.named):
        known |= set(map(bytes, connection.scalars(sa.select(table.c.mac).where(table.c.request_id == row.request_id))))
    return len(known) == len(repeat.macs) and all(not known.isdisjoint(each) for each in repeat.macs)
