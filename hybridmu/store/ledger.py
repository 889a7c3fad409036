"""The durable log of requests and tombstones, the coordinator's lease, and what was measured.

`accept` commits a request and its tombstones in one transaction; nothing acknowledged is lost.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.errors import ConflictError, LeaseLostError, RequestError, StateError, StorageMismatchError
from hybridmu.store import tables as t
from hybridmu.types import (
    Calibration,
    CalibrationBucket,
    CostObservation,
    ForgetRequest,
    RequestState,
    ResolvedKey,
    ShardOutcome,
    ShardPlan,
    StrategyChoice,
    Tombstone,
)

_COORDINATOR = "coordinator"
_COST_WINDOW = 400
# An ended request does nothing more about rows that are still in the model.
_ENDED = {RequestState.FAILED, RequestState.APPLIED, RequestState.SERVED}


class Ledger:
    """Requests, tombstones, lease, measurements.

    Args:
        engine: From `tables.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, t.reader(engine)

    # ------------------------------------------------------------------ identity

    def bind(self, identity: dict[str, Any], *, create: bool, replace: bool = False) -> None:
        """Check that this storage belongs to a configuration; the first caller with `create` claims it.

        Args:
            identity: What makes storages incompatible.
            create: Claim a storage that nobody claimed.
            replace: Claim it anew: nothing was ingested yet, so a corrected configuration may take over.

        Raises:
            StorageMismatchError: It belongs to another one; the differing keys are listed.
            StateError: Nothing was trained here and `create` is false.
        """
        with self._write.begin() as connection:
            stored = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "identity"))
            if stored is not None and replace:
                connection.execute(t.meta.delete().where(t.meta.c.key == "identity"))
                stored = None
            if stored is None:
                if not create:
                    raise StateError("nothing was trained here", remedy="run `hybridmu train -c CONFIG` first")
                value = json.dumps(identity, sort_keys=True)
                connection.execute(t.meta.insert().values(key="identity", value=value))
                return
        differing = _differences(json.loads(stored), json.loads(json.dumps(identity)))
        if differing:
            raise StorageMismatchError(
                "this storage belongs to another configuration",
                expected="the settings it was trained with",
                got="; ".join(differing),
                remedy="use that configuration, or another storage_url",
            )

    # ------------------------------------------------------------------ requests

    def accept(
        self,
        keys: Sequence[ResolvedKey],
        *,
        known: Sequence[ResolvedKey] = (),
        strategy: StrategyChoice = "auto",
        idempotency_key: str | None = None,
        payload: object = None,
        deadline_seconds: float | None = None,
        ignored_unknown: int = 0,
    ) -> ForgetRequest:
        """Commit a request with its tombstones; durable when this returns.

        Args:
            keys: What to revoke; keys revoked in the meantime are skipped.
            known: Keys of the call whose rows were all revoked before.
            strategy: What the caller asks for.
            idempotency_key: The same key returns the same request.
            payload: What the caller asked, to tell a repeat from a conflict; defaults to the keys.
            deadline_seconds: Counted from now.
            ignored_unknown: Keys of the call that do not exist and were ignored.

        Returns:
            The new request; or the earlier one, for a repeated idempotency key or when nothing new is asked.

        Raises:
            ConflictError: The idempotency key came with another payload before.
            RequestError: There is nothing to revoke and no earlier request to point to.
        """
        asked = payload if payload is not None else sorted((k.kind, k.key.hex()) for k in keys)
        digest = _payload_digest(asked, strategy)
        now = time.time()
        with self._write.begin() as connection:
            if earlier := self._repeat(connection, idempotency_key, digest):
                return earlier
            have = _revoked(connection, keys)
            fresh = [key for key in keys if (key.kind, key.key, key.shard) not in have]
            covering = _covering(connection, [*keys, *known])
            # Rows that were revoked before may still be in the served model: their removal is waited for, and taken
            # up again when the request that asked for it failed.
            # Asking for a retrain by name also repairs exactly what an update removed before.
            exactly = strategy == "retrain"
            unremoved = {row.shard for row in covering if row.seq > _done_upto(connection, row.shard, exactly)}
            earlier = self._least_advanced(connection, covering) if covering and not fresh else None
            again = unremoved and earlier is not None and earlier.state in _ENDED
            if earlier is not None and not again:
                request_id = earlier.request_id
            elif fresh or unremoved:
                request_id = f"r-{uuid.uuid4().hex[:16]}"
            else:
                raise RequestError("the request is empty", expected="at least one id or group")
            if idempotency_key is not None:
                connection.execute(
                    t.idempotency.insert().values(key=idempotency_key, payload=digest, request_id=request_id)
                )
            if earlier is None or request_id != earlier.request_id:
                connection.execute(
                    t.requests.insert().values(
                        request_id=request_id,
                        state=RequestState.RECEIVED,
                        strategy=strategy,
                        keys=len({(key.kind, key.key) for key in fresh}),
                        already_forgotten=len({(key.kind, key.key) for key in known}),
                        ignored_unknown=ignored_unknown,
                        received_at=now,
                        deadline_at=now + deadline_seconds if deadline_seconds is not None else None,
                    )
                )
                rows = [
                    {"request_id": request_id, "kind": k.kind, "key": k.key, "shard": k.shard, "slice": k.slice}
                    for k in fresh
                ]
                if rows:
                    connection.execute(t.tombstones.insert(), rows)
                shards = sorted({key.shard for key in fresh} | unremoved)
                connection.execute(t.needs.insert(), [{"request_id": request_id, "shard": shard} for shard in shards])
            return self._request(connection, t.requests.c.request_id == request_id)

    def find_repeat(
        self, idempotency_key: str | None, payload: object, strategy: StrategyChoice
    ) -> ForgetRequest | None:
        """Return the request that an idempotency key already names.

        Raises:
            ConflictError: It came with another payload.
        """
        with self._read.begin() as connection:
            return self._repeat(connection, idempotency_key, _payload_digest(payload, strategy))

    def request(self, request_id: str) -> ForgetRequest:
        """Return one request.

        Raises:
            StateError: There is none of that name.
        """
        with self._read.begin() as connection:
            return self._request(connection, t.requests.c.request_id == request_id)

    def requests(self, states: Iterable[RequestState] = ()) -> list[ForgetRequest]:
        """Return requests in commit order, all or those in the given states."""
        query = t.requests.select().order_by(t.requests.c.seq)
        wanted = list(states)
        if wanted:
            query = query.where(t.requests.c.state.in_(wanted))
        with self._read.begin() as connection:
            return [_to_request(row) for row in connection.execute(query)]

    def tombstones(self, shards: Iterable[int] | None = None) -> dict[int, list[Tombstone]]:
        """Return shard → its tombstones in commit order."""
        query = t.tombstones.select().order_by(t.tombstones.c.seq)
        if shards is not None:
            query = query.where(t.tombstones.c.shard.in_(sorted(set(shards))))
        found: dict[int, list[Tombstone]] = {}
        with self._read.begin() as connection:
            for row in connection.execute(query):
                tombstone = Tombstone(row.seq, row.kind, bytes(row.key), row.shard, row.slice, row.request_id)
                found.setdefault(row.shard, []).append(tombstone)
        return found

    def shards_of(self, request_ids: Sequence[str]) -> dict[str, set[int]]:
        """Return request → the shards whose removals it waits for."""
        found: dict[str, set[int]] = {request_id: set() for request_id in request_ids}
        query = t.needs.select().where(t.needs.c.request_id.in_(list(request_ids)))
        with self._read.begin() as connection:
            for row in connection.execute(query):
                found[row.request_id].add(row.shard)
        return found

    def mark_planned(self, token: int, request_ids: Sequence[str], round_id: str, version: int) -> None:
        """Move requests to PLANNED, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.requests
                .update()
                .where(t.requests.c.request_id.in_(list(request_ids)))
                .values(state=RequestState.PLANNED, round_id=round_id, version_before=version)
            )

    def mark_failed(self, token: int, request_ids: Sequence[str], reason: str) -> None:
        """Move requests to FAILED, fenced; their tombstones stay."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.requests
                .update()
                .where(t.requests.c.request_id.in_(list(request_ids)))
                .values(state=RequestState.FAILED, reason=reason)
            )

    def mark_served(self, token: int, upto_version: int) -> list[str]:
        """Return the requests of versions ≤ `upto_version` that this call moved from APPLIED to SERVED, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            where = (t.requests.c.state == RequestState.APPLIED) & (t.requests.c.version_after <= upto_version)
            ids = list(connection.scalars(sa.select(t.requests.c.request_id).where(where)))
            if ids:
                connection.execute(
                    t.requests
                    .update()
                    .where(t.requests.c.request_id.in_(ids))
                    .values(state=RequestState.SERVED, served_at=time.time())
                )
            return ids

    def outcomes(self, request_id: str) -> list[dict[str, Any]]:
        """Return plan against actual for each shard a request touched."""
        query = (
            sa
            .select(t.outcomes)
            .join(t.requests, t.requests.c.round_id == t.outcomes.c.round_id)
            .where(t.requests.c.request_id == request_id)
            .where(t.outcomes.c.shard.in_(sa.select(t.needs.c.shard).where(t.needs.c.request_id == request_id)))
            .order_by(t.outcomes.c.shard)
        )
        with self._read.begin() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        for row in rows:
            row["reasons"] = json.loads(row["reasons"])
        return rows

    # ------------------------------------------------------------------ measurements

    def costs(self) -> list[CostObservation]:
        """Return the newest measured outcomes."""
        query = t.costs.select().order_by(t.costs.c.id.desc()).limit(_COST_WINDOW)
        with self._read.begin() as connection:
            return [CostObservation(r.strategy, r.visits, r.checkpoints, r.seconds) for r in connection.execute(query)]

    def calibration(self) -> Calibration:
        """Return the fitted α; empty before calibration."""
        with self._read.begin() as connection:
            raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "calibration"))
        if raw is None:
            return Calibration()
        loaded = json.loads(raw)
        buckets = tuple(CalibrationBucket(**bucket) for bucket in loaded["buckets"])
        return Calibration(buckets, tuple(bytes.fromhex(key) for key in loaded["canaries"]))

    def set_calibration(self, calibration: Calibration) -> None:
        """Replace the fitted α."""
        value = json.dumps({
            "buckets": [asdict(bucket) for bucket in calibration.buckets],
            "canaries": [key.hex() for key in calibration.canaries],
        })
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == "calibration"))
            connection.execute(t.meta.insert().values(key="calibration", value=value))

    # ------------------------------------------------------------------ lease

    def acquire(self, holder: str, seconds: float) -> int | None:
        """Return a fencing token if nobody else holds the coordinator's lease, or None."""
        now = time.time()
        with self._write.begin() as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == _COORDINATOR)).first()
            if row is None:
                connection.execute(
                    t.leases.insert().values(name=_COORDINATOR, token=1, holder=holder, expires_at=now + seconds)
                )
                return 1
            if row.holder and row.holder != holder and row.expires_at > now:
                return None
            token = int(row.token) + 1
            connection.execute(
                t.leases
                .update()
                .where(t.leases.c.name == _COORDINATOR)
                .values(token=token, holder=holder, expires_at=now + seconds)
            )
            return token

    def heartbeat(self, token: int, seconds: float) -> None:
        """Extend the lease, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.leases.update().where(t.leases.c.name == _COORDINATOR).values(expires_at=time.time() + seconds)
            )

    def release(self, token: int) -> None:
        """Give the lease back, if it is still ours."""
        with self._write.begin() as connection:
            connection.execute(
                t.leases
                .update()
                .where((t.leases.c.name == _COORDINATOR) & (t.leases.c.token == token))
                .values(holder="", expires_at=0.0)
            )

    def lease_holder(self) -> str | None:
        """Return who holds an unexpired lease."""
        with self._read.begin() as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == _COORDINATOR)).first()
        return str(row.holder) if row and row.holder and row.expires_at > time.time() else None

    # ------------------------------------------------------------------ helpers

    def _request(self, connection: Connection, where: Any) -> ForgetRequest:
        row = connection.execute(t.requests.select().where(where)).first()
        if row is None:
            raise StateError("there is no such request", remedy="list them with `hybridmu status`")
        return _to_request(row)

    def _least_advanced(self, connection: Connection, covering: Sequence[Row[Any]]) -> ForgetRequest:
        # The newest among equals.
        ids = sorted({row.request_id for row in covering})
        rows = connection.execute(t.requests.select().where(t.requests.c.request_id.in_(ids))).all()
        order = [RequestState.FAILED, RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED]
        rank = {str(state): number for number, state in enumerate(order)}
        return _to_request(min(rows, key=lambda row: (rank.get(row.state, len(order)), -row.seq)))

    def _repeat(self, connection: Connection, key: str | None, digest: str) -> ForgetRequest | None:
        if key is None:
            return None
        row = connection.execute(t.idempotency.select().where(t.idempotency.c.key == key)).first()
        if row is None:
            return None
        if row.payload != digest:
            raise ConflictError(
                f"the idempotency key {key!r} was used with another payload",
                expected="the same ids, groups and strategy",
                remedy="use a new key for a new request",
            )
        return self._request(connection, t.requests.c.request_id == row.request_id)


def fence(connection: Connection, token: int) -> None:
    """Stop a coordinator that lost its lease, inside the transaction that it is about to write in.

    Raises:
        LeaseLostError: Another token is current.
    """
    current = connection.scalar(sa.select(t.leases.c.token).where(t.leases.c.name == _COORDINATOR))
    if current != token:
        raise LeaseLostError("another coordinator took over", expected=f"token {token}", got=f"token {current}")


def record_outcomes(connection: Connection, round_id: str, pairs: Sequence[tuple[ShardPlan, ShardOutcome]]) -> None:
    """Write plan against actual, and what the cost model learns, in the caller's transaction."""
    for plan, outcome in pairs:
        connection.execute(
            t.outcomes.insert().values(
                round_id=round_id,
                shard=plan.shard,
                strategy=outcome.strategy,
                rule=plan.rule,
                reasons=json.dumps(plan.reasons),
                first_slice=outcome.first_slice,
                revoked=plan.revoked,
                sample_visits=outcome.visits,
                planned_visits=plan.sample_visits,
                estimated_seconds=plan.estimated_seconds,
                measured_seconds=outcome.seconds,
            )
        )
    record_costs(connection, [outcome for _, outcome in pairs])


def record_costs(connection: Connection, outcomes: Iterable[ShardOutcome]) -> None:
    """Write what the cost model learns from outcomes, in the caller's transaction."""
    for outcome in outcomes:
        connection.execute(
            t.costs.insert().values(
                strategy=outcome.strategy,
                visits=outcome.visits,
                checkpoints=sum(record.visits > 0 for record in outcome.slices) + outcome.checkpoints_read,
                seconds=outcome.seconds,
            )
        )


def _payload_digest(payload: object, strategy: str) -> str:
    return hashlib.blake2b(json.dumps([payload, strategy]).encode(), digest_size=16).hexdigest()


def _revoked(connection: Connection, keys: Sequence[ResolvedKey]) -> set[tuple[str, bytes, int]]:
    """Return (kind, key, shard) of the keys that are tombstoned already."""
    found = {(row.kind, bytes(row.key), row.shard) for row in _by_key(connection, [key.key for key in keys])}
    return {place for key in keys if (place := (key.kind, key.key, key.shard)) in found}


def _covering(connection: Connection, keys: Sequence[ResolvedKey]) -> list[Row[Any]]:
    """Return the tombstones that revoked rows of these keys, under whichever id or group they carry."""
    carriers = {(digest, key.shard) for key in keys for digest in (key.key, *key.carriers)}
    rows = _by_key(connection, sorted({digest for digest, _ in carriers}))
    return [row for row in rows if (bytes(row.key), row.shard) in carriers]


def _done_upto(connection: Connection, shard: int, exactly: bool) -> int:
    """Return the shard's watermark in the newest version: of exact removals, or of all."""
    newest = t.version_shards.select().where(t.version_shards.c.shard == shard)
    row = connection.execute(newest.order_by(t.version_shards.c.version.desc()).limit(1)).first()
    return int(row.exact_upto if exactly else row.removed_upto) if row else 0


def _by_key(connection: Connection, keys: Sequence[bytes]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for start in range(0, len(keys), 500):  # SQLite limits the parameters of one statement
        part = list(keys[start : start + 500])
        found += connection.execute(t.tombstones.select().where(t.tombstones.c.key.in_(part))).all()
    return found


def _to_request(row: Row[Any]) -> ForgetRequest:
    return ForgetRequest(
        request_id=row.request_id,
        state=RequestState(row.state),
        strategy=row.strategy,
        keys=row.keys,
        received_at=row.received_at,
        deadline_at=row.deadline_at,
        applied_at=row.applied_at,
        served_at=row.served_at,
        version_before=row.version_before,
        version_after=row.version_after,
        reason=row.reason,
        already_forgotten=row.already_forgotten,
        ignored_unknown=row.ignored_unknown,
    )


def _differences(stored: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*stored, *ours}):
        a, b = stored.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: storage has {a!r}, the configuration {b!r}")
    return found
