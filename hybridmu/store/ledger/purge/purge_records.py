"""Records of purges in the ledger: which requests are due, and the last marks."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.proposal import forget_digests
from hybridmu.store.ledger.accept.reliance import relied_on
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.forwards import undelivered
from hybridmu.store.ledger.idempotency import forget_payloads
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.operator_controls import Hold
from hybridmu.store.ledger.purge.purge_evidence import lost_needs
from hybridmu.store.ledger.request_rows import set_values
from hybridmu.store.ledger.tombstones import to_tombstone
from hybridmu.store.ledger.watermarks import newest
from hybridmu.store.ledger.webhook_outbox import changed, tell
from hybridmu.types import Key, RequestState, Tombstone
from hybridmu.verifier.plain_data import moment

_PASSED, _CERTIFICATES = "purge", "certificates"
_HOLD = "legal hold"
_OTHERS = "not purged: an earlier request for some of its rows is not purged yet"
_JOINED = "its rows were purged for an earlier request"
_LAST_SECOND = 253_402_300_799.0  # of the year 9999


@dataclass(frozen=True)
class Purgeable:
    """A request that is served and exact, and whether its rows may go now.

    Attributes:
        request_id: Its name.
        shards: Shards in which it revoked rows; none: all of its rows are those of earlier requests.
        blocked: Why it must wait; None when it is due.
        noted: What the ledger says of it at present.
    """

    request_id: str
    shards: frozenset[int]
    blocked: str | None
    noted: str | None = None


@dataclass(frozen=True)
class Passed:
    """A purge that was looked at and found complete: what is left are certificates.

    Kept in the ledger before the first one is signed, so that a crash repeats the very same certificates.

    Attributes:
        numbers: (request, certificate number), in order.
        purge: What the certificates say of it.
        purged_at: When it was complete.
    """

    numbers: tuple[tuple[str, int], ...]
    purge: dict[str, Any]
    purged_at: float


class Deletions:
    """Purges, as the ledger sees them.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    # ------------------------------------------------------------------ what is due

    def purgeable(
        self, confirmed: int, retention_seconds: float, margin_seconds: float, holds: Iterable[Hold]
    ) -> list[Purgeable]:
        """Return the requests whose purge is due, and those that wait for a reason that is not noted yet.

        Costs one pass over the index of served requests; what is retained and says so is not read.

        Args:
            confirmed: The version that every replica answers with, or a newer one.
            retention_seconds: How long old versions are kept after a request is exact.
            margin_seconds: How long before its deadline a request is purged in any case.
            holds: Legal holds.
        """
        # Where nothing is to be kept, a clock that was set back must not keep it either.
        now = time.time() if retention_seconds else _LAST_SECOND
        held = self.held(holds)
        everything = f"{_HOLD} {held[None]} on everything" if None in held else None
        r = t.requests.c
        # Who relies on it may have to be through earlier.
        hastened = r.hastened_at < sa.func.coalesce(r.deadline_at, _LAST_SECOND)
        deadline = sa.case((hastened, r.hastened_at), else_=r.deadline_at)
        kept = sa.case(
            (deadline < r.exact_at + retention_seconds + margin_seconds, deadline - margin_seconds),
            else_=r.exact_at + retention_seconds,
        )
        there = (r.state == RequestState.SERVED) & (r.version_exact <= confirmed)
        if everything:
            wanted = r.reason.is_distinct_from(everything)
        else:
            # That hold may be lifted; and who waits for others only, waits for nothing else.
            wanted = sa.or_(kept <= now, r.reason.is_(None), r.reason.startswith(_HOLD), r["keys"] == 0)
        query = sa.select(r.request_id, r.already_forgotten, r.reason, kept.label("kept")).where(there & wanted)
        with self._read.begin() as connection:
            rows = connection.execute(query.order_by(r.seq)).all()
            names = [*{row.request_id: None for row in rows}, *(name for name in held if name)] if rows else []
            touched = _touched(connection, names)
            elsewhere = undelivered(connection, [row.request_id for row in rows])
            waiting = _waiting_for_others(connection, [row.request_id for row in rows])
        frozen = {name: set(touched.get(name, ())) for name in held if name}
        found = []
        for row in rows:
            mine = frozenset(touched[row.request_id])
            blocked = everything
            if blocked is None and row.request_id in held:
                blocked = f"{_HOLD} {held[row.request_id]}"
            if blocked is None and row.already_forgotten:
                others = [held[name] for name, shards in frozen.items() if shards & mine]
                blocked = f"{_HOLD} {others[0]} on a request that may name the same rows" if others else None
            if blocked is None:
                blocked = elsewhere.get(row.request_id)
            if blocked is None and row.request_id in waiting:
                blocked = _OTHERS
            if blocked is None and mine and now < row.kept:
                blocked = f"old versions are kept until {moment(min(row.kept, _LAST_SECOND))}"
            found.append(Purgeable(row.request_id, mine, blocked, row.reason))
        return found

    def held(self, holds: Iterable[Hold]) -> dict[str | None, int]:
        """Return request → the number of a legal hold that covers it; None stands for every request.

        A hold on a request covers the earlier ones whose rows are its rows as well.
        """
        named = {hold.request_id: hold.number for hold in holds}
        with self._read.begin() as connection:
            earlier = relied_on(connection, [name for name in named if name])
        return {other: named[name] for name, others in earlier.items() for other in others} | named

    def end_joined(self, token: int, request_ids: Sequence[str]) -> None:
        """Mark requests PURGED, fenced, whose rows are those of earlier requests, all of them purged by now."""
        values = {"state": RequestState.PURGED, "purged_at": time.time(), "reason": _JOINED}
        with transaction(self._write, "finish") as connection:
            fence(connection, token)
            ids = changed(connection, t.requests.c.state == RequestState.SERVED, request_ids)
            set_values(connection, ids, **values)
            tell(connection, ids, "purged")
            forget_payloads(connection, request_ids)

    def stones_of(self, request_ids: Sequence[str]) -> dict[int, list[Tombstone]]:
        """Return shard → the tombstones of requests that are not emptied, in commit order."""
        found: dict[int, list[Tombstone]] = {}
        with self._read.begin() as connection:
            for part in parts(request_ids):
                mine = t.tombstones.c.key.is_not(None) & t.tombstones.c.request_id.in_(part)
                for row in connection.execute(t.tombstones.select().where(mine).order_by(t.tombstones.c.seq)):
                    found.setdefault(row.shard, []).append(to_tombstone(row))
        return found

    def exact_stones(self, shards: Collection[int]) -> dict[int, list[Tombstone]]:
        """Return shard → tombstones that are out exactly and not purged, in commit order."""
        last = newest()
        query = (
            t.tombstones
            .select()
            .join(last, last.c.shard == t.tombstones.c.shard)
            .where(t.tombstones.c.key.is_not(None) & (t.tombstones.c.seq <= last.c.exact_upto))
            .order_by(t.tombstones.c.seq)
        )
        found: dict[int, list[Tombstone]] = {shard: [] for shard in shards}
        with self._read.begin() as connection:
            for part in parts(sorted(shards)):
                for row in connection.execute(query.where(t.tombstones.c.shard.in_(part))):
                    found[row.shard].append(to_tombstone(row))
        return found

    # ------------------------------------------------------------------ the last marks

    def without_rows(self, request_ids: Sequence[str], gone: Mapping[int, Collection[Key]]) -> set[int]:
        """Return the tombstones that no row carries any more, and that are not emptied yet.

        Args:
            request_ids: Requests whose rows are gone.
            gone: Shard → keys that no row carries: others' tombstones of them are meant as well.
        """
        stones = t.tombstones.c
        there = sa.select(stones.seq).where(stones.key.is_not(None))
        found: set[int] = set()
        with self._read.begin() as connection:
            for part in parts(request_ids):
                found |= set(connection.scalars(there.where(stones.request_id.in_(part))))
            for shard, keys in gone.items():
                for kind in ("id", "group"):
                    for part in parts(sorted(key for k, key in keys if k == kind)):
                        named = stones.key.in_(part) & (stones.kind == kind) & (stones.shard == shard)
                        found |= set(connection.scalars(there.where(named)))
        return found

    def naming(self, request_ids: Collection[str]) -> list[str]:
        """Return these requests and the later ones that name rows of them: what came with all their keys names these.

        Their repeats are known by the guard's entries from then on.
        """
        found = set(request_ids)
        with self._read.begin() as connection:
            for part in parts(sorted(request_ids)):
                later = sa.select(t.reliances.c.request_id).where(t.reliances.c.earlier.in_(part))
                found |= set(connection.scalars(later))
        return sorted(found)

    def scrub(self, token: int, seqs: Collection[int], request_ids: Collection[str]) -> None:
        """Empty what still names rows that are gone, fenced.

        Args:
            token: The coordinator's fencing token.
            seqs: Tombstones: their keys go, their numbers and counts stay.
            request_ids: Requests: what came with their idempotency keys goes.
        """
        with transaction(self._write, "scrub") as connection:
            fence(connection, token)
            gone: set[Key] = set()
            for part in parts(sorted(seqs)):
                query = sa.select(t.tombstones.c.kind, t.tombstones.c.key).where(t.tombstones.c.seq.in_(part))
                gone |= {(row.kind, bytes(row.key)) for row in connection.execute(query) if row.key is not None}
                connection.execute(t.tombstones.update().where(t.tombstones.c.seq.in_(part)).values(key=None))
            forget_digests(connection, gone)
            forget_payloads(connection, request_ids)

    def pass_(self, token: int, passed: Passed) -> None:
        """Write down that a purge is complete, and forget what was looked for, fenced."""
        value = {"numbers": passed.numbers, "purge": passed.purge, "purged_at": passed.purged_at}
        with transaction(self._write, "passed") as connection:
            fence(connection, token)
            connection.execute(t.meta.delete().where(t.meta.c.key == _PASSED))
            connection.execute(t.meta.insert().values(key=_PASSED, value=json.dumps(value)))
            for part in parts([request_id for request_id, _ in passed.numbers]):
                connection.execute(t.surveys.delete().where(t.surveys.c.request_id.in_(part)))

    def passed(self) -> Passed | None:
        """Return the purge whose certificates are not all written, if there is one."""
        with self._read.begin() as connection:
            raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _PASSED))
        if raw is None:
            return None
        value = json.loads(raw)
        numbers = tuple((request_id, number) for request_id, number in value["numbers"])
        return Passed(numbers, value["purge"], value["purged_at"])

    def last_certificate(self) -> int:
        """Return the last number that was given out; 0 before the first."""
        with self._read.begin() as connection:
            return certificate_numbers(connection)[1]

    def finish(self, token: int, request_id: str, certificate: int, purged_at: float) -> None:
        """Mark a request PURGED, fenced; its evidence lives on in the certificate."""
        with transaction(self._write, "finish") as connection:
            fence(connection, token)
            ids = changed(connection, t.requests.c.state == RequestState.SERVED, [request_id])
            values = {"state": RequestState.PURGED, "purged_at": purged_at, "certificate": certificate, "reason": None}
            set_values(connection, ids, **values)
            tell(connection, ids, "purged")
            connection.execute(t.evidence.delete().where(t.evidence.c.request_id == request_id))

    def end(self, token: int) -> None:
        """Say that every certificate of a purge is written, fenced."""
        with transaction(self._write, "purged") as connection:
            fence(connection, token)
            connection.execute(t.meta.delete().where(t.meta.c.key == _PASSED))

    def note(self, token: int, reasons: Mapping[str, str]) -> None:
        """Write down why requests are not purged yet, fenced."""
        with transaction(self._write, "note") as connection:
            fence(connection, token)
            for request_id, reason in reasons.items():
                mine = (t.requests.c.request_id == request_id) & t.requests.c.purged_at.is_(None)
                connection.execute(t.requests.update().where(mine).values(reason=reason))


def certificate_numbers(connection: Connection) -> tuple[int, int]:
    """Return (the last number that a request has, the last that was given out): 0 where there is none."""
    numbers = sa.select(sa.func.max(t.requests.c.certificate))
    kept = sa.select(t.meta.c.value).where(t.meta.c.key == _CERTIFICATES)
    written = max(int(connection.scalar(numbers) or 0), int(connection.scalar(kept) or 0))
    raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _PASSED))
    given = [number for _, number in json.loads(raw)["numbers"]] if raw else []
    return written, max([written, *given])


def keep_certificate_number(connection: Connection, number: int) -> None:
    """Take note of the last certificate in storage, in the caller's transaction: its request may be unknown here."""
    connection.execute(t.meta.delete().where(t.meta.c.key == _CERTIFICATES))
    connection.execute(t.meta.insert().values(key=_CERTIFICATES, value=str(number)))


def _touched(connection: Connection, request_ids: Sequence[str]) -> dict[str, set[int]]:
    """Return request → shards in which it revoked rows, as far as a damaged ledger tells."""
    found: dict[str, set[int]] = {request_id: set() for request_id in request_ids}
    own = sa.select(t.tombstones.c.request_id, t.tombstones.c.shard).distinct()
    lost = sa.select(t.needs.c.request_id, t.needs.c.shard).where(lost_needs())
    for part in parts(request_ids):
        for query, table in ((own, t.tombstones), (lost, t.needs)):
            for row in connection.execute(query.where(table.c.request_id.in_(part))):
                found[row.request_id].add(row.shard)
    return found


def _waiting_for_others(connection: Connection, request_ids: Sequence[str]) -> set[str]:
    """Return the requests among these that wait for the rows of one that is not purged yet."""
    over = (RequestState.PURGED, RequestState.CANCELLED)
    query = sa.select(t.reliances.c.request_id).join(t.requests, t.requests.c.request_id == t.reliances.c.earlier)
    query = query.where(t.reliances.c.waits & t.requests.c.state.not_in(over))
    return {
        name
        for part in parts(request_ids)
        for name in connection.scalars(query.where(t.reliances.c.request_id.in_(part)))
    }
