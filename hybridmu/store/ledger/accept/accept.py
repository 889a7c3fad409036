"""Acceptance: a call becomes a request in one transaction, with all that it revokes, waits for and passes on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import AdmissionError, RequestError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.proposal import Proposed, keep, size
from hybridmu.store.ledger.accept.reliance import (
    Requests,
    asked_before,
    entry_holders,
    hasten,
    holders,
    note_named,
    rely_on,
    take_up,
    waits_for,
)
from hybridmu.store.ledger.accept.withdrawal import claim
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.store.ledger.forwards import file_forwards
from hybridmu.store.ledger.ingestions import insert
from hybridmu.store.ledger.linked_systems import live_systems
from hybridmu.store.ledger.tombstones import Assessment, bury
from hybridmu.store.ledger.webhook_outbox import tell
from hybridmu.types import Ingestion, KeySet, NamedKey, Origin, RequestState, ResolvedKey, StrategyChoice

_NOT_HERE = "it has no row here"
_PURGED = "its rows were forgotten and purged before"
_OPEN = (RequestState.PROPOSED, RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)


@dataclass(frozen=True)
class Limits:
    """What one caller may ask; None is no limit.

    Attributes:
        open_requests: Requests of the caller that are not served yet.
        per_minute: Requests of the caller in the last 60 seconds.
    """

    open_requests: int | None = None
    per_minute: int | None = None


@dataclass(frozen=True)
class Call:
    """What is asked; see `Ledger.accept`.

    Attributes:
        keys: Keys with rows.
        purged: HMACs that the guard has, of keys without a row.
        absent: Keys without a row that the guard does not have.
        strategy: How.
        caller: Who asks.
        limits: What this caller may ask.
        deadline: Seconds since the epoch.
        ignored_unknown: How many unknown keys were left out.
        ingestion: The other half of a correction.
        copy_seal: What its copy in storage holds.
        origin: The linked model that passes it on.
        at: When it came.
        listed: HMAC → digest for exclusion manifests.
    """

    keys: Sequence[ResolvedKey]
    purged: Sequence[bytes]
    absent: Sequence[NamedKey]
    strategy: StrategyChoice
    caller: str
    limits: Limits | None
    deadline: float | None
    ignored_unknown: int
    ingestion: Ingestion | None
    copy_seal: str | None
    origin: Origin | None
    at: float
    listed: Mapping[bytes, bytes]


def commit(connection: Connection, call: Call, found: Assessment) -> str:
    """Write a request, unless its caller asked for all of it before.

    Args:
        connection: In a write transaction.
        call: What is asked.
        found: What its keys would revoke now.

    Returns:
        The name of the request.

    Raises:
        RequestError: There is nothing to revoke.
        AdmissionError: The caller's limits are reached.
    """
    # Rows that were revoked before may still be in the served model: their removal is waited for, and taken up again
    # when the request that asked for it failed.
    earlier = holders(connection, found.covering, call.purged)
    own = None
    if not found.fresh and not call.absent:
        args = (call.caller, call.origin, call.strategy, call.keys, found.covering, call.purged)
        own = asked_before(connection, *args)
    take_up(connection, list(earlier), own.request_id if own else None, call.strategy)
    if own is not None:
        if call.deadline is not None:
            hasten(connection, own.request_id, call.deadline)
        returns = call.ingestion is not None
        _remember_forgotten(connection, own.request_id, call.keys, call.purged, (), call.listed, returns=returns)
        return own.request_id
    return _file(connection, call, found, earlier)


def propose(connection: Connection, call: Call, found: Assessment) -> str:
    """Write a request that another caller has to approve; nothing is revoked by it.

    Args:
        connection: In a write transaction.
        call: What is asked; it names live rows.
        found: What its keys would revoke now.

    Returns:
        The name of the request.

    Raises:
        AdmissionError: The caller's limits are reached.
    """
    _admit(connection, call.caller, call.limits, call.at)
    name, (rows, _) = _new_name(), size(found.fresh)
    keys = len(KeySet.of(key for key, _ in found.fresh))
    state = RequestState.PROPOSED
    connection.execute(t.requests.insert().values(state=state, keys=keys, **_facts(call, found, name)))
    keep(connection, name, rows, Proposed(_named(call), tuple(call.purged)))
    tell(connection, [name], "accepted")
    return name


def file_approved(connection: Connection, call: Call, found: Assessment, name: str) -> None:
    """Write a request that was proposed, and is approved now, as if it came now; its name and deadline stay.

    Args:
        connection: In a write transaction.
        call: What was proposed.
        found: What its keys revoke now.
        name: Of the proposal, which this takes the place of.
    """
    earlier = holders(connection, found.covering, call.purged)
    take_up(connection, list(earlier), None, call.strategy)
    connection.execute(t.requests.delete().where(t.requests.c.request_id == name))
    _file(connection, call, found, earlier, name)


def _new_name() -> str:
    return f"r-{uuid.uuid4().hex[:16]}"


def _named(call: Call) -> tuple[NamedKey, ...]:
    """Return the ids and groups of a call as they are told to others."""
    known = {(key.kind, key.key): NamedKey(key.kind, key.key, key.mac, key.mac_key) for key in call.keys}
    return tuple(replace(key, listed=call.listed.get(key.mac, b"")) for key in (*known.values(), *call.absent))


def _facts(call: Call, found: Assessment, name: str) -> dict[str, Any]:
    """Return the columns of a request that don't change when it moves on."""
    return {
        "request_id": name,
        "strategy": call.strategy,
        "caller": call.caller,
        "already_forgotten": len(KeySet.of(found.known)) + len(call.purged),
        "ignored_unknown": call.ignored_unknown,
        "received_at": call.at,
        "deadline_at": call.deadline,
        "origin": call.origin.text if call.origin else None,
    }


def _file(connection: Connection, call: Call, found: Assessment, earlier: Requests, approved: str | None = None) -> str:
    """Return the name of a new request, or of one that was proposed before."""  # noqa: DOC501 - helper of `commit`
    name = approved or _new_name()
    open_ = any(row.state != RequestState.PURGED for row in earlier.values())
    systems = [] if call.origin or call.ingestion else live_systems(connection)
    entries = entry_holders(connection, call.keys, earlier)
    passes_on = bool(systems and (found.fresh or open_ or call.absent))
    if not (found.fresh or earlier or call.origin or passes_on):
        raise RequestError("the request is empty", expected="at least one id or group")
    _admit(connection, call.caller, call.limits, call.at)
    values = _facts(call, found, name)
    if found.fresh or open_:
        keys = len(KeySet.of(key for key, _ in found.fresh))
        connection.execute(t.requests.insert().values(state=RequestState.RECEIVED, keys=keys, **values))
        bury(connection, name, found.fresh, waits_for(connection, found.covering, earlier))
        if not approved:  # else it was told when it was proposed
            tell(connection, [name], "accepted")
    else:
        _end_at_once(connection, _PURGED if earlier else _NOT_HERE, values, told=bool(approved))
    if passes_on:
        file_forwards(connection, name, systems, _named(call))
    returns = call.ingestion is not None
    _remember_forgotten(connection, name, call.keys, call.purged, call.absent, call.listed, returns=returns)
    macs = {key.mac for key in call.keys if key.mac} | set(call.purged)
    note_named(connection, name, macs)
    rely_on(connection, name, found, earlier, entries, call.deadline)
    claim(connection, name, call.keys, macs, {**earlier, **entries})
    if call.ingestion is not None:
        insert(connection, replace(call.ingestion, after_request=name), call.copy_seal)
    return name


def being_forgotten(found: Assessment) -> RequestError:
    """Return why rows that are revoked can't be corrected."""
    requests = sorted({stone.request_id for stone in found.covering})
    return RequestError(
        f"{len(KeySet.of(found.known))} row(s) to be corrected are revoked already",
        expected="live rows; nothing was changed",
        got=f"rows of request(s) {', '.join(requests[:5])}",
        remedy="once the request is PURGED, `readmit` their ids and `ingest` the corrected rows",
    )


def known_macs(connection: Connection, macs: Collection[bytes]) -> set[bytes]:
    """Return which of these HMACs the guard has."""
    guard = t.guard.c.mac
    found: set[bytes] = set()
    for part in parts(sorted(macs)):
        found |= {bytes(mac) for mac in connection.scalars(sa.select(guard).where(guard.in_(part)))}
    return found


def _admit(connection: Connection, caller: str, limits: Limits | None, now: float) -> None:
    """Check the limits of a caller in the transaction that accepts a request.

    Raises:
        AdmissionError: They are reached.
    """
    if limits is None:
        return
    mine = sa.select(sa.func.count()).select_from(t.requests).where(t.requests.c.caller == caller)
    checks = (
        ("open requests", limits.open_requests, mine.where(t.requests.c.state.in_(_OPEN))),
        # What a clock that was set back left in the future is not counted: it would keep a caller out for as long.
        ("requests in the last minute", limits.per_minute, mine.where(t.requests.c.received_at.between(now - 60, now))),
    )
    for what, limit, query in checks:
        if limit is not None and (have := connection.scalar(query) or 0) >= limit:
            raise AdmissionError(
                f"caller {caller!r} has too many {what}",
                expected=f"at most {limit}",
                got=str(have + 1),
                remedy="put many ids into one request, wait, or raise the limit under admission:",
            )


def _end_at_once(connection: Connection, reason: str, values: dict[str, Any], *, told: bool) -> None:
    """Write a request that touches no row here: PURGED, without a certificate of its own."""
    now = max(values["received_at"], time.time()) if told else values["received_at"]
    version = connection.scalar(sa.select(t.serving.c.version))
    times = dict.fromkeys(("applied_at", "served_at", "exact_at", "purged_at"), now)
    versions = dict.fromkeys(("version_before", "version_after", "version_exact"), version)
    mine = {"state": RequestState.PURGED, "keys": 0, "reason": reason}
    connection.execute(t.requests.insert().values(**mine, **times, **versions, **values))
    if not told:
        tell(connection, [values["request_id"]], "accepted")
    tell(connection, [values["request_id"]], "applied", "served", "exact", "purged")


def _remember_forgotten(
    connection: Connection,
    request_id: str,
    keys: Sequence[ResolvedKey],
    purged: Sequence[bytes],
    absent: Sequence[NamedKey],
    listed: Mapping[bytes, bytes],
    *,
    returns: bool,
) -> None:
    """Write guard entries of all keys of a call, also of those that an earlier one revoked.

    What a correction would have brought back does not come back when it is asked to be forgotten meanwhile.

    Args:
        connection: Of the caller's transaction.
        request_id: The request.
        keys: Keys with rows here.
        purged: HMACs that the guard has.
        absent: Keys without a row here that the guard does not have.
        listed: HMAC → digest for exclusion manifests; entries of an earlier release get theirs by this.
        returns: Whether a correction brings the keys back.
    """
    macs = {key.mac: key for key in keys if key.mac}
    there = known_macs(connection, {*macs, *purged})
    for part in parts(sorted(there)):
        if not returns:
            connection.execute(
                t.guard.update().where(t.guard.c.mac.in_(part) & t.guard.c.returns).values(returns=False)
            )
        if mine := [mac for mac in part if mac in macs]:  # rows were found of what was known by name only
            named = t.guard.c.mac.in_(mine) & t.guard.c.absent
            connection.execute(t.guard.update().where(named).values(absent=False, request_id=request_id))
    _list_again(connection, {mac: listed[mac] for mac in there if mac in listed})
    new: list[tuple[bytes, Any, str, bool]] = [
        (mac, key.kind, key.mac_key, False) for mac, key in macs.items() if mac not in there
    ]
    new += [(key.mac, key.kind, key.mac_key, True) for key in absent]
    if new:
        entries = [
            {
                "mac": mac,
                "kind": kind,
                "key_id": key_id,
                "request_id": request_id,
                "returns": returns,
                "absent": not_here,
                "listed": listed.get(mac),
            }
            for mac, kind, key_id, not_here in sorted(new)
        ]
        connection.execute(t.guard.insert(), entries)


def _list_again(connection: Connection, listed: Mapping[bytes, bytes]) -> None:
    """Give entries that have no digest for exclusion manifests theirs."""
    for part in parts(sorted(listed)):
        lacking = t.guard.c.mac.in_(part) & t.guard.c.listed.is_(None)
        for mac in map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(lacking)).all()):
            connection.execute(t.guard.update().where(t.guard.c.mac == mac).values(listed=listed[mac]))
