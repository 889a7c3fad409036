"""Proposals: requests that another caller has to approve, with what they name, and nothing revoked yet.

A proposal is a row among the requests, so that it is listed, repeated, taken back and overdue like any other. No
tombstone is written: those of a shard are removed together, and who asks next for a row there would have removed
what nobody approved. What it names is kept masked until it is decided, by digests as linked models tell each other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.types import Key, KeySet, NamedKey, ResolvedKey


@dataclass(frozen=True)
class Proposed:
    """What a proposal names.

    Attributes:
        keys: Ids and groups; the digest is empty where the rows were purged since.
        purged: HMACs of what had no row when it was proposed, and was purged before.
    """

    keys: tuple[NamedKey, ...]
    purged: tuple[bytes, ...]


def size(fresh: Sequence[tuple[ResolvedKey, int]]) -> tuple[int, int]:
    """Return (rows, groups) that a call is about.

    Args:
        fresh: Its keys with a live row, as in `Assessment`; all rows of such a key count.
    """
    rows = {(key.shard, row.id) for key, _ in fresh for row in key.rows}
    return len(rows), sum(kind == "group" for kind, _ in KeySet.of(key for key, _ in fresh))


def keep(connection: Connection, request_id: str, rows: int, proposed: Proposed) -> None:
    """Write what a proposal names.

    Args:
        connection: In a write transaction.
        request_id: The proposal.
        rows: That it would revoke.
        proposed: What it names.
    """
    values = {"request_id": request_id, "rows": rows, "document": _packed(proposed)}
    connection.execute(t.approvals.insert().values(**values))


def named(connection: Connection, request_id: str) -> Proposed | None:
    """Return what a proposal names; None once it is decided."""
    document = t.approvals.c.document
    data = connection.scalar(sa.select(document).where(t.approvals.c.request_id == request_id))
    return None if data is None else _unpacked(data)


def decide(connection: Connection, request_id: str, approver: str | None = None, at: float | None = None) -> None:
    """Drop what a proposal names, and note who approved it.

    Args:
        connection: In a write transaction.
        request_id: The proposal.
        approver: Who; None: it was taken back.
        at: When.
    """
    mine = t.approvals.c.request_id == request_id
    connection.execute(t.approvals.update().where(mine).values(document=None, approved_by=approver, approved_at=at))


def forget_digests(connection: Connection, gone: Collection[Key]) -> None:
    """Take digests of purged ids and groups out of proposals that name them too; their HMACs stay, as in the guard.

    Args:
        connection: In a write transaction.
        gone: (kind, digest) of what was purged.
    """
    open_ = sa.select(t.approvals.c.request_id, t.approvals.c.document).where(t.approvals.c.document.is_not(None))
    for row in connection.execute(open_).all():
        said = _unpacked(row.document)
        keys = tuple(
            NamedKey(key.kind, b"", key.mac, key.mac_key, key.listed) if (key.kind, key.key) in gone else key
            for key in said.keys
        )
        if keys != said.keys:
            mine = t.approvals.c.request_id == row.request_id
            connection.execute(t.approvals.update().where(mine).values(document=_packed(Proposed(keys, said.purged))))


def _packed(proposed: Proposed) -> bytes:
    keys = [
        [key.kind, key.key.hex(), key.mac.hex(), key.mac_key, key.listed.hex()]
        for key in sorted(proposed.keys, key=lambda key: (key.kind, key.mac))
    ]
    return mask(json.dumps({"keys": keys, "purged": sorted(mac.hex() for mac in proposed.purged)}).encode())


def _unpacked(data: bytes) -> Proposed:
    read = json.loads(unmask(data))
    keys = tuple(
        NamedKey(kind, bytes.fromhex(key), bytes.fromhex(mac), mac_key, bytes.fromhex(listed))
        for kind, key, mac, mac_key, listed in read["keys"]
    )
    return Proposed(keys, tuple(map(bytes.fromhex, read["purged"])))
