"""Writing the guard's entries in the transaction that accepts a request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.transactions import parts
from hybridmu.types import NamedKey, ResolvedKey


def known_macs(connection: Connection, macs: Collection[bytes]) -> set[bytes]:
    """Return which of these HMACs the guard has."""
    guard = t.guard.c.mac
    found: set[bytes] = set()
    for part in parts(sorted(macs)):
        found |= {bytes(mac) for mac in connection.scalars(sa.select(guard).where(guard.in_(part)))}
    return found


def remember_forgotten(
    connection: Connection,
    request_id: str,
    keys: Sequence[ResolvedKey],
    purged: Sequence[bytes],
    absent: Sequence[NamedKey],
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
            }
            for mac, kind, key_id, not_here in sorted(new)
        ]
        connection.execute(t.guard.insert(), entries)
