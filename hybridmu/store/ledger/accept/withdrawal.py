"""Taking a request back: its rows are live again, unless another request asks for them as well.

What such another one asks for is kept beside it, its *claim*, as long as a request that it relies on may be cancelled.
When that happens, the claims are looked at in the order of their requests, as if the cancelled one had never been.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.reliance import Requests, entry_holders, holders, rely_on, waits_for
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.store.ledger.forwards import withdraw_forwards
from hybridmu.store.ledger.ingestions import withdraw
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.store.ledger.request_rows import begin_earlier
from hybridmu.store.ledger.tombstones import assess_keys, bury
from hybridmu.types import KeySet, RequestState, ResolvedKey, RowKey


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request asks for: keys that had rows, and HMACs of all that it names."""

    keys: tuple[ResolvedKey, ...]
    macs: frozenset[bytes]


def claim(
    connection: Connection, request_id: str, keys: Sequence[ResolvedKey], macs: Collection[bytes], earlier: Requests
) -> None:
    """Keep what a request asks for, if one that it relies on may be cancelled.

    Args:
        connection: In a write transaction.
        request_id: The request.
        keys: Its keys with rows.
        macs: HMACs of all ids and groups that it names.
        earlier: The requests that it relies on.
    """
    if any(row.state == RequestState.RECEIVED and row.origin is None for row in earlier.values()):
        document = _packed(_Claim(tuple(keys), frozenset(macs)))
        connection.execute(t.claims.insert().values(request_id=request_id, document=document))


def take_back(connection: Connection, request_id: str) -> None:
    """Remove everything that a request did, and give what others ask for as well to them.

    Args:
        connection: In a write transaction.
        request_id: A request that nobody began to fulfil.
    """
    heirs = t.reliances.c.request_id
    mine = sa.select(heirs).where(t.reliances.c.earlier == request_id)
    query = t.requests.select().where(t.requests.c.request_id.in_(mine)).order_by(t.requests.c.seq)
    waiting = connection.execute(query).all()
    for table in (t.tombstones, t.needs, t.reliances, t.named, t.claims):
        connection.execute(table.delete().where(table.c.request_id == request_id))
    connection.execute(t.reliances.delete().where(t.reliances.c.earlier == request_id))
    withdraw(connection, request_id)
    withdraw_forwards(connection, request_id)
    for heir in waiting:
        _inherit(connection, heir, request_id)
    connection.execute(t.guard.delete().where(t.guard.c.request_id == request_id))
    begin_earlier(connection)


def _inherit(connection: Connection, heir: Row[Any], gone: str) -> None:
    """Let a request revoke what a cancelled one had revoked for it."""
    name = heir.request_id
    document = connection.scalar(sa.select(t.claims.c.document).where(t.claims.c.request_id == name))
    assert document is not None  # it is kept as long as what it relies on can be cancelled
    claimed = _unpacked(document)
    for part in parts(sorted(claimed.macs)):
        theirs = t.guard.c.mac.in_(part) & (t.guard.c.request_id == gone)
        macs = list(map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(theirs))))
        connection.execute(t.guard.update().where(theirs).values(request_id=name))
        connection.execute(t.named.delete().where((t.named.c.request_id == name) & t.named.c.mac.in_(macs)))
    # Later requests' tombstones don't count: two requests that rely on each other would never end.
    found = assess_keys(connection, claimed.keys, before=heir.seq)
    owned = {key.mac for key in claimed.keys if key.mac}
    earlier = holders(connection, found.covering, _without_rows(connection, name, claimed.macs - owned))
    earlier = {other: row for other, row in earlier.items() if row.seq < heir.seq}
    entries = entry_holders(connection, claimed.keys, [*earlier, name, gone])
    for table in (t.needs, t.reliances):
        connection.execute(table.delete().where(table.c.request_id == name))
    bury(connection, name, found.fresh, waits_for(connection, found.covering, earlier))
    rely_on(connection, name, found, earlier, entries, heir.deadline_at)
    fresh = KeySet.of(key for key, _ in found.fresh)
    moved = len(fresh) - heir.keys
    values = {"keys": len(fresh), "already_forgotten": heir.already_forgotten - moved}
    connection.execute(t.requests.update().where(t.requests.c.request_id == name).values(**values))


def _without_rows(connection: Connection, name: str, macs: Collection[bytes]) -> list[bytes]:
    """Return which of a request's HMACs are others' guard entries."""
    found: list[bytes] = []
    for part in parts(sorted(macs)):
        others = t.guard.c.mac.in_(part) & (t.guard.c.request_id != name)
        found += map(bytes, connection.scalars(sa.select(t.guard.c.mac).where(others)))
    return found


def _packed(made: _Claim) -> bytes:
    keys = [
        [
            *(key.kind, key.key.hex(), key.shard, key.slice, key.mac.hex(), key.mac_key),
            [[row.id.hex(), row.group.hex() if row.group else None, row.training] for row in key.rows],
        ]
        for key in made.keys
    ]
    return mask(json.dumps({"keys": keys, "macs": sorted(mac.hex() for mac in made.macs)}).encode())


def _unpacked(data: bytes) -> _Claim:
    read = json.loads(unmask(data))
    keys = tuple(
        ResolvedKey(kind, bytes.fromhex(key), shard, slice_, tuple(map(_row, rows)), bytes.fromhex(mac), mac_key)
        for kind, key, shard, slice_, mac, mac_key, rows in read["keys"]
    )
    return _Claim(keys, frozenset(map(bytes.fromhex, read["macs"])))


def _row(read: Sequence[Any]) -> RowKey:
    id_, group, training = read
    return RowKey(bytes.fromhex(id_), bytes.fromhex(group) if group else None, training)
