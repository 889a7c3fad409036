"""Calls about rows that are being forgotten already: whose removal they rely on, and what is theirs alone.

Every caller has a request of its own. One whose rows an earlier request revoked revokes nothing itself: it waits for
the same tombstones, is planned, applied and served like any other, and ends when the requests that it relies on are
purged. Nothing of those is shown to its caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.core.strategies import asks_exact
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.store.ledger.forwards import tell_again
from hybridmu.store.ledger.request_rows import taken_up, to_request
from hybridmu.store.ledger.tombstones import Assessment
from hybridmu.types import ForgetRequest, Origin, RequestState, ResolvedKey, StrategyChoice, Tombstone

WAITING = (RequestState.RECEIVED, RequestState.PLANNED)
_ENDED = (RequestState.PURGED, RequestState.CANCELLED)
Requests = Mapping[str, Row[Any]]  # by name, in commit order


def holders(connection: Connection, covering: Sequence[Tombstone], purged: Collection[bytes]) -> Requests:
    """Return the requests that revoked rows of a call, purged ones included.

    Args:
        connection: In a transaction.
        covering: Tombstones of its rows.
        purged: HMACs of its ids and groups that have no row any more.
    """
    names = {stone.request_id for stone in covering}
    for part in parts(sorted(set(purged))):
        names |= set(connection.scalars(sa.select(t.guard.c.request_id).where(t.guard.c.mac.in_(part))))
    return _requests(connection, names)


def entry_holders(connection: Connection, keys: Sequence[ResolvedKey], besides: Collection[str]) -> Requests:
    """Return the requests that hold guard entries of a call's keys, and may still be cancelled.

    A call that names the same keys must not lose the entries with them, though it waits for none of their rows.

    Args:
        connection: In a transaction.
        keys: What is asked and has rows.
        besides: Requests that are known to be relied on, and the call's own.
    """
    names: set[str] = set()
    for part in parts(sorted({key.mac for key in keys if key.mac})):
        names |= set(connection.scalars(sa.select(t.guard.c.request_id).where(t.guard.c.mac.in_(part))))
    found = _requests(connection, names - set(besides))
    return {name: row for name, row in found.items() if row.state == RequestState.RECEIVED and row.origin is None}


def asked_before(
    connection: Connection,
    caller: str,
    origin: Origin | None,
    strategy: StrategyChoice,
    keys: Sequence[ResolvedKey],
    covering: Sequence[Tombstone],
    purged: Collection[bytes],
) -> ForgetRequest | None:
    """Return the request of the same caller that asks for all that a call asks for, or None.

    Args:
        connection: In a transaction.
        caller: Who asks.
        origin: The linked model that passes the call on.
        strategy: How: who asks for a retrain by name is not answered with less.
        keys: What is asked and has rows, all of them revoked.
        covering: Tombstones of these rows.
        purged: HMACs of what is asked and has no row any more.
    """
    by_mac = _named_by(connection, {key.mac for key in keys if key.mac} | set(purged))
    by_key: dict[tuple[str, bytes], set[str]] = {}
    for stone in covering:
        by_key.setdefault((stone.kind, stone.key), set()).add(stone.request_id)
    asked = [by_key.get((key.kind, key.key), set()) | by_mac.get(key.mac, set()) for key in keys]
    asked += [by_mac.get(mac, set()) for mac in purged]
    names = set.intersection(*asked) if asked else set()
    upto = {stone.shard: stone.seq for stone in covering}  # they are in commit order
    found = [
        row
        for row in _requests(connection, names).values()
        if _same_caller(row, caller, origin) and _does(row, strategy)
    ]
    corrections = t.ingestions.c.after_request  # they bring other rows of these ids back
    for row in sorted(found, key=lambda row: (row.keys > 0, row.seq), reverse=True):
        needs = _needs(connection, [row.request_id])
        waits = all(needs.get(shard, 0) >= seq for shard, seq in upto.items())
        if waits and connection.scalar(sa.select(corrections).where(corrections == row.request_id)) is None:
            return to_request(row)
    return None


def waits_for(connection: Connection, covering: Sequence[Tombstone], earlier: Requests) -> dict[int, int]:
    """Return shard → the tombstone number up to which a call waits for others' removals.

    Args:
        connection: In a transaction.
        covering: Tombstones of its rows.
        earlier: From `holders`.
    """
    upto = {stone.shard: stone.seq for stone in covering}
    going = [name for name in _rowless(covering, earlier) if earlier[name].state not in _ENDED]
    for shard, seq in _needs(connection, going).items():
        upto[shard] = max(upto.get(shard, 0), seq)
    return upto


def rely_on(
    connection: Connection,
    request_id: str,
    found: Assessment,
    earlier: Requests,
    entries: Requests,
    deadline: float | None,
) -> None:
    """Note whose removals a request relies on, and let those that it waits for be purged by its deadline.

    Args:
        connection: In a write transaction.
        request_id: The request.
        found: What its keys would have revoked.
        earlier: Those that revoked rows of it before.
        entries: Those that hold guard entries of it alone; it does not wait for them.
        deadline: When it must be purged.
    """
    waits = found.others | _rowless(found.covering, earlier)
    if names := [*earlier, *entries]:
        rows = [{"request_id": request_id, "earlier": name, "waits": name in waits} for name in names]
        connection.execute(t.reliances.insert(), rows)
    for part in parts(sorted(waits)) if deadline is not None else ():
        mine = t.requests.c.request_id.in_(part)
        later = t.requests.c.hastened_at.is_(None) | (t.requests.c.hastened_at > deadline)
        connection.execute(t.requests.update().where(mine & later).values(hastened_at=deadline))


def note_named(connection: Connection, request_id: str, macs: Collection[bytes]) -> None:
    """Note which ids and groups a request names besides those whose guard entry is its own."""
    own: set[bytes] = set()
    for part in parts(sorted(macs)):
        mine = t.guard.c.mac.in_(part) & (t.guard.c.request_id == request_id)
        own |= set(map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(mine))))
    if rows := [{"request_id": request_id, "mac": mac} for mac in sorted(set(macs) - own)]:
        connection.execute(t.named.insert(), rows)


def take_up(connection: Connection, request_ids: Collection[str], own: str | None, strategy: StrategyChoice) -> None:
    """Let those of these requests that failed be tried again.

    Args:
        connection: In a write transaction.
        request_ids: Requests.
        own: The request among them that its own caller asks for again. It takes `strategy`.
        strategy: The strategy of the new try.
    """
    failed = t.requests.c.state == RequestState.FAILED
    if own is not None:
        mine = t.requests.c.request_id == own
        connection.execute(t.requests.update().where(mine & failed).values(strategy=strategy))
    for part in parts(sorted(request_ids)):
        there = t.requests.c.request_id.in_(part) & failed
        connection.execute(t.requests.update().where(there).values(reason=None, **taken_up()))


def hasten(connection: Connection, request_id: str, deadline: float) -> None:
    """Let a request's deadline be this one, where that is earlier and the request is not purged."""
    mine = t.requests.c.request_id == request_id
    later = t.requests.c.deadline_at.is_(None) | (t.requests.c.deadline_at > deadline)
    open_ = t.requests.c.purged_at.is_(None)
    if connection.execute(t.requests.update().where(mine & later & open_).values(deadline_at=deadline)).rowcount:
        tell_again(connection, request_id)


def relied_on(connection: Connection, request_ids: Collection[str]) -> dict[str, list[str]]:
    """Return request → those that it relies on, for the requests among these that do."""
    found: dict[str, list[str]] = {}
    for part in parts(sorted(request_ids)):
        query = t.reliances.select().where(t.reliances.c.request_id.in_(part)).order_by(t.reliances.c.earlier)
        for row in connection.execute(query):
            found.setdefault(row.request_id, []).append(row.earlier)
    return found


def _rowless(covering: Sequence[Tombstone], earlier: Requests) -> set[str]:
    """Return the requests without any of these tombstones: their rows are gone, or on the way out at this moment."""
    return set(earlier) - {stone.request_id for stone in covering}


def _same_caller(row: Row[Any], caller: str, origin: Origin | None) -> bool:
    if origin is None:
        return row.origin is None and row.caller == caller
    return row.origin is not None and str(row.origin).startswith(f"{origin.system}:")


def _does(row: Row[Any], strategy: StrategyChoice) -> bool:
    """Return whether a request, as it is now, does what a strategy asks for."""
    if row.state == RequestState.CANCELLED:
        return False
    return not asks_exact(strategy) or row.exact_at is not None or row.state == RequestState.FAILED or (
        row.state in WAITING and asks_exact(row.strategy)
    )  # fmt: skip


def _named_by(connection: Connection, macs: Collection[bytes]) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = {}
    for part in parts(sorted(macs)):
        for table in (t.guard, t.named):
            for mac, name in connection.execute(
                sa.select(table.c.mac, table.c.request_id).where(table.c.mac.in_(part))
            ):
                found.setdefault(bytes(mac), set()).add(name)
    return found


def _requests(connection: Connection, names: Collection[str]) -> Requests:
    rows = [
        row
        for part in parts(sorted(names))
        for row in connection.execute(t.requests.select().where(t.requests.c.request_id.in_(part)))
    ]
    return {row.request_id: row for row in sorted(rows, key=lambda row: row.seq)}


def _needs(connection: Connection, names: Collection[str]) -> dict[int, int]:
    upto: dict[int, int] = {}
    for part in parts(sorted(names)):
        for need in connection.execute(t.needs.select().where(t.needs.c.request_id.in_(part))):
            upto[need.shard] = max(upto.get(need.shard, 0), need.upto)
    return upto
