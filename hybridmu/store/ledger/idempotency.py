"""Idempotency keys: the same key of the same caller names the same request, whichever verb it came with.

Callers like to put an id into a key, and what is asked is ids. The ledger holds neither, but HMACs of both by the guard
key; of what is asked not even that once its rows are purged. Then a repeat is known by the ids and groups themselves:
it has to name as many as the first call did, and of those all that the guard remembers, but as many as were unknown
then or readmitted since. An exact repeat always does; options are not compared any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import ConflictError, RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts

_LONGEST = 200
_HMAC, _NUMBER = 32, 4  # bytes: what is kept of a call is an HMAC and two numbers, then the numbers alone


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
    kept = bytes(row.payload or b"")
    whole = len(kept) >= _HMAC
    same = kept[:_HMAC] == payload if whole else _names_the_same(connection, row.request_id, kept, repeat)
    if not same:
        raise ConflictError(
            "this idempotency key was used with another payload",
            expected="the same verb, rows and options"
            if whole
            else f"the ids and groups that were asked with it: request {row.request_id} is purged, and nothing else of "
            "what was asked is kept",
            remedy="use a new key for a new request",
        )
    return str(row.request_id)


def remember(
    connection: Connection, repeat: RepeatKey | None, name: str, *, unknown: int = 0, over: bool = False
) -> None:
    """Let a key name a request or ingestion, in the caller's write transaction.

    Args:
        connection: In a transaction.
        repeat: From `seal`; None: there is nothing to remember.
        name: The request or ingestion.
        unknown: How many of the ids and groups that are asked have no row, and no guard entry.
        over: Whether its rows are purged already: what was asked is not kept.
    """
    if repeat is not None:
        made = repeat.seals[-1]
        numbers = () if repeat.macs is None or made.payload is None else (len(repeat.macs), unknown)
        payload = (made.payload or b"") + b"".join(number.to_bytes(_NUMBER) for number in numbers)
        values = {"key": made.name, "key_id": made.key_id, "payload": spent(payload) if over else payload or None}
        connection.execute(t.idempotency.insert().values(request_id=name, **values))


def spent(payload: bytes | None) -> bytes | None:
    """Return what may stay of what is kept of a call once its rows are purged: how many ids and groups it named."""
    kept = payload or b""
    return (kept[_HMAC:] if len(kept) >= _HMAC else kept) or None


def forget_payloads(connection: Connection, request_ids: Iterable[str]) -> None:
    """Keep nothing of what these requests asked, in the caller's write transaction."""
    kept = t.idempotency.c
    for part in parts(sorted(set(request_ids) - corrections(connection, request_ids))):
        there = kept.request_id.in_(part) & kept.payload.is_not(None)
        rows = connection.execute(sa.select(kept.key, kept.payload).where(there)).all()
        left = [{"of": row.key, "left": spent(bytes(row.payload))} for row in rows]
        if left:
            change = t.idempotency.update().where(kept.key == sa.bindparam("of"))
            connection.execute(change.values(payload=sa.bindparam("left")), left)


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


def _names_the_same(connection: Connection, request_id: str, kept: bytes, repeat: RepeatKey) -> bool:
    """Return whether a call can be the one that a key came with, now that its request is purged.

    Args:
        connection: In any transaction.
        request_id: The request, which may be an earlier one of the same caller that asked for more.
        kept: How many ids and groups the first call named, and how many of them were unknown; empty: an earlier release
            kept no numbers, and the request's own stand for them.
        repeat: The call.
    """
    if repeat.macs is None:
        return False
    r, mine = t.requests.c, t.guard.c.request_id == request_id
    counts = connection.execute(
        sa.select(r["keys"], r.already_forgotten, r.ignored_unknown).where(r.request_id == request_id)
    ).one()
    here = set(map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(mine & ~t.guard.c.absent))))
    here |= set(map(bytes, connection.scalars(sa.select(t.named.c.mac).where(t.named.c.request_id == request_id))))
    elsewhere = set(map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(mine & t.guard.c.absent))))
    had = counts[0] + counts[1]
    if kept:
        names, unknown = (int.from_bytes(kept[at : at + _NUMBER]) for at in (0, _NUMBER))
    else:
        names, unknown = had + counts[2], counts[2]
    readmitted = max(0, had - len(here))  # or given up with a lost guard key
    unmatched = sum(each.isdisjoint(here | elsewhere) for each in repeat.macs)
    return len(repeat.macs) == names and unmatched <= unknown + readmitted
