"""A call becomes a request, in one transaction: its tombstones, what it waits for, its guard entries, its forwards."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection

from hybridmu.errors import RequestError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.admission import Limits, admit
from hybridmu.store.ledger.accept.assessment import Assessment
from hybridmu.store.ledger.accept.filing import bury, end_at_once
from hybridmu.store.ledger.accept.joining import (
    Requests,
    asked_before,
    hasten,
    holders,
    note_named,
    rely_on,
    take_up,
    waits_for,
)
from hybridmu.store.ledger.accept.suppression_entries import remember_forgotten
from hybridmu.store.ledger.accept.withdrawal import claim
from hybridmu.store.ledger.ingestions import insert
from hybridmu.store.ledger.linked_systems import file_forwards, live_systems
from hybridmu.types import Ingestion, KeySet, NamedKey, Origin, RequestState, ResolvedKey, StrategyChoice

_NOT_HERE = "it has no row here"
_PURGED = "its rows were forgotten and purged before"


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
        remember_forgotten(connection, own.request_id, call.keys, call.purged, (), returns=returns)
        return own.request_id
    return _file(connection, call, found, earlier)


def _file(connection: Connection, call: Call, found: Assessment, earlier: Requests) -> str:
    """Return the name of a new request."""  # noqa: DOC501 - helper of `commit`
    name = f"r-{uuid.uuid4().hex[:16]}"
    open_ = any(row.state != RequestState.PURGED for row in earlier.values())
    systems = [] if call.origin or call.ingestion else live_systems(connection)
    passes_on = bool(systems and (found.fresh or open_ or call.absent))
    if not (found.fresh or earlier or call.origin or passes_on):
        raise RequestError("the request is empty", expected="at least one id or group")
    admit(connection, call.caller, call.limits, call.at)
    values = {
        "request_id": name,
        "strategy": call.strategy,
        "caller": call.caller,
        "already_forgotten": len(KeySet.of(found.known)) + len(call.purged),
        "ignored_unknown": call.ignored_unknown,
        "received_at": call.at,
        "deadline_at": call.deadline,
        "origin": call.origin.text if call.origin else None,
    }
    if found.fresh or open_:
        keys = len(KeySet.of(key for key, _ in found.fresh))
        connection.execute(t.requests.insert().values(state=RequestState.RECEIVED, keys=keys, **values))
        bury(connection, name, found.fresh, waits_for(connection, found.covering, earlier))
    else:
        end_at_once(connection, call.at, _PURGED if earlier else _NOT_HERE, values)
    if passes_on:
        known = {(key.kind, key.key): NamedKey(key.kind, key.key, key.mac, key.mac_key) for key in call.keys}
        file_forwards(connection, name, systems, [*known.values(), *call.absent])
    returns = call.ingestion is not None
    remember_forgotten(connection, name, call.keys, call.purged, call.absent, returns=returns)
    macs = {key.mac for key in call.keys if key.mac} | set(call.purged)
    note_named(connection, name, macs)
    rely_on(connection, name, found, earlier, call.deadline)
    claim(connection, name, call.keys, macs, earlier)
    if call.ingestion is not None:
        insert(connection, replace(call.ingestion, after_request=name), call.copy_seal)
    return name
