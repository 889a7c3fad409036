"""Tombstones: which rows keys would revoke now, which tombstones revoked the others, and new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.types import KeySet, ResolvedKey, Tombstone


@dataclass(frozen=True)
class Assessment:
    """What a set of keys would revoke now.

    Attributes:
        fresh: (key, training rows that it alone would revoke), for keys with a live row.
        known: Keys whose rows are all revoked already.
        covering: Tombstones that revoked rows of these keys, under whichever id or group they carry.
        others: The requests of those among them whose rows no fresh key names: these rows are gone when they are done.
    """

    fresh: tuple[tuple[ResolvedKey, int], ...]
    known: tuple[ResolvedKey, ...]
    covering: tuple[Tombstone, ...]
    others: frozenset[str]


def assess_keys(connection: Connection, keys: Sequence[ResolvedKey], *, before: int | None = None) -> Assessment:
    """Return what keys would revoke now, in the caller's transaction.

    Args:
        connection: In a transaction.
        keys: What is asked.
        before: Look at the tombstones of requests with a smaller number alone; None: at all.
    """
    carriers = {digest for key in keys for row in key.rows for digest in (row.id, row.group) if digest is not None}
    carriers |= {key.key for key in keys}
    stones: dict[tuple[bytes, int], list[Tombstone]] = {}
    for stone in by_key(connection, sorted(carriers), before):
        stones.setdefault((stone.key, stone.shard), []).append(stone)
    fresh, known = [], []
    counted: set[tuple[int, bytes]] = set()
    covering: dict[int, Tombstone] = {}
    others: set[str] = set()
    for key in keys:
        live = False
        killed = 0
        mine: set[str] = set()
        for row in key.rows:
            gone = [stone for digest in (row.id, row.group) if digest for stone in stones.get((digest, key.shard), ())]
            covering.update((stone.seq, stone) for stone in gone)
            mine.update(stone.request_id for stone in gone)
            if gone:
                continue
            live = True
            if row.training and (key.shard, row.id) not in counted:
                counted.add((key.shard, row.id))
                killed += 1
        if live:
            fresh.append((key, killed))
        else:
            known.append(key)
            others |= mine
    everywhere = KeySet.of(key for key, _ in fresh)  # live in one shard, revoked in another: it is fresh
    return Assessment(
        tuple(fresh),
        tuple(key for key in known if (key.kind, key.key) not in everywhere),
        tuple(covering[seq] for seq in sorted(covering)),
        frozenset(others),
    )


def by_key(connection: Connection, keys: Sequence[bytes], before: int | None = None) -> list[Tombstone]:
    """Return the tombstones with one of these digests, of all requests or of those with a smaller number."""
    query = t.tombstones.select()
    if before is not None:
        query = query.join(t.requests, t.requests.c.request_id == t.tombstones.c.request_id)
        query = query.where(t.requests.c.seq < before)
    return [
        to_tombstone(row)
        for part in parts(keys)
        for row in connection.execute(query.where(t.tombstones.c.key.in_(part)))
    ]


def to_tombstone(row: Row[Any]) -> Tombstone:
    """Return a tombstone from its row in the database."""
    return Tombstone(row.seq, row.kind, bytes(row.key), row.shard, row.slice, row.request_id, row.rows)


def bury(
    connection: Connection,
    request_id: str,
    fresh: Sequence[tuple[ResolvedKey, int]],
    waits: Mapping[int, int],
) -> None:
    """Write tombstones and what the request waits for.

    Args:
        connection: In a write transaction.
        request_id: The request.
        fresh: Its keys, with the training rows that each alone revokes; one that it buried before is counted again.
        waits: Shard → up to which of others' tombstones it waits as well.
    """
    stones = t.tombstones.c
    mine = sa.select(stones.kind, stones.key, stones.shard, stones.slice, stones.seq).where(
        stones.request_id == request_id
    )
    there = {tuple(row[:4]): row.seq for row in connection.execute(mine)}
    new = []
    for k, rows in fresh:
        if seq := there.get((k.kind, k.key, k.shard, k.slice)):
            connection.execute(t.tombstones.update().where(stones.seq == seq).values(rows=rows))
        else:
            place = {"kind": k.kind, "key": k.key, "shard": k.shard, "slice": k.slice}
            new.append({"request_id": request_id, "rows": rows, **place})
    if new:
        connection.execute(t.tombstones.insert(), new)
    own = sa.select(stones.shard, sa.func.max(stones.seq)).where(stones.request_id == request_id)
    upto = dict(waits)
    for shard, seq in connection.execute(own.group_by(stones.shard)):
        upto[shard] = max(upto.get(shard, 0), seq)
    connection.execute(
        t.needs.insert(),
        [{"request_id": request_id, "shard": shard, "upto": seq} for shard, seq in sorted(upto.items())],
    )
