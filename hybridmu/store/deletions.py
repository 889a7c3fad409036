"""What the ledger knows of purges: which requests are due, evidence and surveys, and the last marks."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core.certificate import RevokedKey
from hybridmu.store import tables as t
from hybridmu.store.controls import Hold
from hybridmu.store.database import reader
from hybridmu.store.lease import fence
from hybridmu.store.ledger import newest, parts, to_tombstone
from hybridmu.types import RequestNeed, RequestState, Tombstone


@dataclass(frozen=True)
class Purgeable:
    """A request that is served and exact, and whether its rows may go now.

    Attributes:
        request_id: Its name.
        shards: Shards that it touched.
        blocked: Why it must wait; None when it is due.
    """

    request_id: str
    shards: frozenset[int]
    blocked: str | None


class Deletions:
    """Purges, as the ledger sees them.

    Args:
        engine: From `database.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def purgeable(self, retention_seconds: float, margin_seconds: float, holds: Iterable[Hold]) -> list[Purgeable]:
        """Return every request that is served and exact but not purged, with what blocks it.

        Args:
            retention_seconds: How long old versions are kept after a request is exact.
            margin_seconds: How long before its deadline a request is purged in any case.
            holds: Legal holds.
        """
        now = time.time()
        held = {hold.request_id: hold.number for hold in holds}
        query = t.requests.select().where(
            (t.requests.c.state == RequestState.SERVED) & t.requests.c.exact_at.is_not(None)
        )
        found = []
        with self._read.begin() as connection:
            rows = connection.execute(query.order_by(t.requests.c.seq)).all()
            touched: dict[str, dict[int, int]] = {row.request_id: {} for row in rows}
            for part in parts([*touched, *(name for name in held if name)]):
                for need in connection.execute(t.needs.select().where(t.needs.c.request_id.in_(part))):
                    touched.setdefault(need.request_id, {})[need.shard] = need.upto
        frozen = [(name, number, touched.get(name, {})) for name, number in held.items() if name is not None]
        for row in rows:
            mine = touched[row.request_id]
            blocked = None
            kept_until = row.exact_at + retention_seconds
            if row.deadline_at is not None:
                kept_until = min(kept_until, row.deadline_at - margin_seconds)
            if None in held:
                blocked = f"legal hold {held[None]} on everything"
            elif row.request_id in held:
                blocked = f"legal hold {held[row.request_id]}"
            elif row.already_forgotten and (
                others := [number for _, number, shards in frozen if set(shards) & set(mine)]
            ):
                blocked = f"legal hold {others[0]} on a request that may name the same rows"
            elif now < kept_until:
                blocked = f"old versions are kept for another {kept_until - now:.0f} s"
            found.append(Purgeable(row.request_id, frozenset(mine), blocked))
        return found

    def exact_stones(self, shards: Collection[int]) -> dict[int, list[Tombstone]]:
        """Return shard → tombstones that are out exactly and not purged, in commit order."""
        last = newest()
        query = (
            t.tombstones
            .select()
            .join(last, last.c.shard == t.tombstones.c.shard)
            .where(t.tombstones.c.key.is_not(None) & (t.tombstones.c.seq <= last.c.exact_upto))
            .where(t.tombstones.c.shard.in_(sorted(shards)))
            .order_by(t.tombstones.c.seq)
        )
        found: dict[int, list[Tombstone]] = {shard: [] for shard in shards}
        with self._read.begin() as connection:
            for row in connection.execute(query):
                found[row.shard].append(to_tombstone(row))
        return found

    def unproven(self, shards: Collection[int]) -> dict[int, tuple[RequestNeed, ...]]:
        """Return shard → requests that are exact, not purged, and have no evidence of that shard yet."""
        have = sa.select(t.evidence.c.request_id).where(
            (t.evidence.c.request_id == t.needs.c.request_id) & (t.evidence.c.shard == t.needs.c.shard)
        )
        query = (
            t.needs
            .select()
            .join(t.requests, t.requests.c.request_id == t.needs.c.request_id)
            .where(t.requests.c.exact_at.is_not(None) & t.requests.c.purged_at.is_(None))
            .where(t.needs.c.shard.in_(sorted(shards)) & ~have.exists())
            .order_by(t.requests.c.seq)
        )
        found: dict[int, list[RequestNeed]] = {shard: [] for shard in shards}
        with self._read.begin() as connection:
            for row in connection.execute(query):
                found[row.shard].append(RequestNeed(row.request_id, row.upto))
        return {shard: tuple(needs) for shard, needs in found.items()}

    def save_proof(self, token: int, shard: int, evidence: Iterable[tuple[str, str]], survey: str) -> None:
        """Keep what was found of a shard before anything is removed from it, fenced; what is there stays."""
        with self._write.begin() as connection:
            fence(connection, token)
            have = set(connection.scalars(sa.select(t.evidence.c.request_id).where(t.evidence.c.shard == shard)))
            for request_id, document in evidence:
                if request_id not in have:
                    connection.execute(
                        t.evidence.insert().values(request_id=request_id, shard=shard, document=document)
                    )
            if connection.scalar(sa.select(t.surveys.c.shard).where(t.surveys.c.shard == shard)) is None:
                connection.execute(t.surveys.insert().values(shard=shard, document=survey))

    def evidence(self, request_id: str) -> list[str]:
        """Return the evidence of a request, one JSON document per shard, in shard order."""
        query = sa.select(t.evidence.c.document).where(t.evidence.c.request_id == request_id)
        with self._read.begin() as connection:
            return list(connection.scalars(query.order_by(t.evidence.c.shard)))

    def surveys(self) -> dict[int, str]:
        """Return shard → survey of a purge that is under way."""
        with self._read.begin() as connection:
            return {row.shard: row.document for row in connection.execute(t.surveys.select())}

    def revoked_keys(self, request_id: str) -> tuple[RevokedKey, ...]:
        """Return the HMACs of the ids and groups that a request revoked, in order."""
        query = t.guard.select().where(t.guard.c.request_id == request_id).order_by(t.guard.c.mac)
        with self._read.begin() as connection:
            return tuple(RevokedKey(row.kind, bytes(row.mac), row.key_id) for row in connection.execute(query))

    def scrub(self, token: int, seqs: Collection[int]) -> None:
        """Empty the keys of tombstones whose rows are gone, fenced; their numbers and counts stay."""
        with self._write.begin() as connection:
            fence(connection, token)
            for part in parts(sorted(seqs)):
                connection.execute(t.tombstones.update().where(t.tombstones.c.seq.in_(part)).values(key=None))

    def finish(self, token: int, request_id: str, certificate: int, purged_at: float) -> None:
        """Mark a request PURGED, fenced; its evidence lives on in the certificate."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.requests
                .update()
                .where((t.requests.c.request_id == request_id) & (t.requests.c.state == RequestState.SERVED))
                .values(state=RequestState.PURGED, purged_at=purged_at, certificate=certificate)
            )
            connection.execute(t.evidence.delete().where(t.evidence.c.request_id == request_id))

    def drop_surveys(self, token: int, shards: Collection[int]) -> None:
        """Forget what a finished purge removed, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(t.surveys.delete().where(t.surveys.c.shard.in_(sorted(shards))))

    def note(self, token: int, reasons: Mapping[str, str]) -> None:
        """Write down why requests are not purged yet, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            for request_id, reason in reasons.items():
                connection.execute(
                    t.requests.update().where(t.requests.c.request_id == request_id).values(reason=reason)
                )
