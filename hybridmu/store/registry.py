"""Immutable model versions, the serving pointer, and the replicas that follow it.

A version moves forward in what it has forgotten: per shard, its watermark (tombstones with seq ≤ it are out) never
falls. The pointer moves by compare-and-set, in the transaction that publishes the version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import StateError
from hybridmu.store import tables as t
from hybridmu.store.ledger import fence, record_costs, record_outcomes
from hybridmu.types import ModelVersion, RequestState, ShardOutcome, ShardPlan, SliceRecord, SubModel


class Registry:
    """Versions and who serves them.

    Args:
        engine: From `tables.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, t.reader(engine)

    def served(self) -> int | None:
        """Return the version that the pointer names; None before training."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.serving.c.version))

    def version(self, number: int | None = None) -> ModelVersion:
        """Return a version, by default the served one.

        Raises:
            StateError: There is none.
        """
        with self._read.begin() as connection:
            if number is None:
                number = connection.scalar(sa.select(t.serving.c.version))
            created = connection.scalar(sa.select(t.versions.c.created_at).where(t.versions.c.version == number))
            if number is None or created is None:
                raise StateError("there is no such model version", remedy="run `hybridmu train -c CONFIG` first")
            return ModelVersion(number, created, _content(connection, number))

    def publish_training(self, outcomes: Sequence[ShardOutcome]) -> int:
        """Return version 1, published from the training of every shard; later calls return the one that is there."""
        with self._write.begin() as connection:
            current = connection.scalar(sa.select(t.serving.c.version))
            if current is not None:
                return int(current)
            now = time.time()
            connection.execute(t.versions.insert().values(version=1, created_at=now))
            for outcome in outcomes:
                _insert(connection, 1, _sub_model(outcome, None, 0.0))
            connection.execute(t.serving.insert().values(id=1, version=1))
            record_costs(connection, outcomes)
            return 1

    def publish(
        self,
        token: int,
        round_id: str,
        request_ids: Sequence[str],
        pairs: Sequence[tuple[ShardPlan, ShardOutcome]],
    ) -> int:
        """Publish a new version with the changed shards, move the pointer, and mark the requests APPLIED.

        All of it is one fenced transaction.

        Args:
            token: The coordinator's fencing token.
            round_id: The round that made the outcomes.
            request_ids: Requests it fulfils.
            pairs: Plan and outcome per shard.

        Returns:
            The new version number.

        Raises:
            StateError: A shard would go back in what it has forgotten.
        """
        now = time.time()
        with self._write.begin() as connection:
            fence(connection, token)
            current = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            before = {sub.shard: sub for sub in _content(connection, current)}
            number = current + 1
            connection.execute(t.versions.insert().values(version=number, created_at=now))
            for plan, outcome in pairs:
                old = before[outcome.shard]
                if outcome.upto < old.removed_upto:
                    raise StateError(
                        f"shard {outcome.shard} would bring back forgotten rows",
                        expected=f"a watermark of at least {old.removed_upto}",
                        got=str(outcome.upto),
                    )
                _insert(connection, number, _sub_model(outcome, old, plan.predicted_error))
            moved = connection.execute(t.serving.update().where(t.serving.c.version == current).values(version=number))
            if moved.rowcount != 1:
                raise StateError("the serving pointer moved under us", expected=str(current))
            connection.execute(
                t.requests
                .update()
                .where(t.requests.c.request_id.in_(list(request_ids)))
                .values(state=RequestState.APPLIED, applied_at=now, version_after=number)
            )
            record_outcomes(connection, round_id, pairs)
            return number

    def satisfy(self, token: int, request_ids: Sequence[str]) -> None:
        """Mark requests APPLIED whose removals the served version contains already, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            current = connection.scalar(sa.select(t.serving.c.version))
            connection.execute(
                t.requests
                .update()
                .where(t.requests.c.request_id.in_(list(request_ids)))
                .values(
                    state=RequestState.APPLIED, applied_at=time.time(), version_before=current, version_after=current
                )
            )

    # ------------------------------------------------------------------ replicas

    def register(self, replica_id: str, version: int, lease_seconds: float) -> None:
        """Add or renew a replica that answers with `version`; call with 0 before reading the pointer."""
        values = {"expires_at": time.time() + lease_seconds, "version": version}
        with self._write.begin() as connection:
            changed = connection.execute(
                t.replicas.update().where(t.replicas.c.replica_id == replica_id).values(**values)
            )
            if changed.rowcount == 0:
                connection.execute(t.replicas.insert().values(replica_id=replica_id, **values))

    def unregister(self, replica_id: str) -> None:
        """Remove a replica that stopped answering."""
        with self._write.begin() as connection:
            connection.execute(t.replicas.delete().where(t.replicas.c.replica_id == replica_id))

    def confirmed(self) -> int:
        """Return the newest version that every unexpired replica answers with; the pointer when there is none."""
        with self._read.begin() as connection:
            pointer = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            slowest = connection.scalar(
                sa.select(sa.func.min(t.replicas.c.version)).where(t.replicas.c.expires_at > time.time())
            )
        return pointer if slowest is None else min(pointer, int(slowest))

    def replicas(self) -> dict[str, int]:
        """Return unexpired replica → version."""
        query = t.replicas.select().where(t.replicas.c.expires_at > time.time())
        with self._read.begin() as connection:
            return {row.replica_id: row.version for row in connection.execute(query)}


def _content(connection: Connection, number: int) -> tuple[SubModel, ...]:
    newest = (
        sa
        .select(t.version_shards.c.shard, sa.func.max(t.version_shards.c.version).label("version"))
        .where(t.version_shards.c.version <= number)
        .group_by(t.version_shards.c.shard)
        .subquery()
    )
    query = (
        sa
        .select(t.version_shards)
        .join(
            newest,
            (t.version_shards.c.shard == newest.c.shard) & (t.version_shards.c.version == newest.c.version),
        )
        .order_by(t.version_shards.c.shard)
    )
    return tuple(
        SubModel(r.shard, r.blob, r.exact, r.removed_upto, r.exact_upto, _records(r.checkpoints), r.error_spent)
        for r in connection.execute(query)
    )


def _sub_model(outcome: ShardOutcome, old: SubModel | None, added_error: float) -> SubModel:
    if outcome.exact or old is None:
        return SubModel(outcome.shard, outcome.blob, True, outcome.upto, outcome.upto, outcome.slices)
    return SubModel(
        outcome.shard,
        outcome.blob,
        False,
        outcome.upto,
        old.exact_upto,
        old.checkpoints,
        old.error_spent + added_error,
    )


def _records(raw: str) -> tuple[SliceRecord, ...]:
    return tuple(SliceRecord(number, key, blob) for number, key, blob in json.loads(raw))


def _insert(connection: Connection, version: int, sub: SubModel) -> None:
    connection.execute(
        t.version_shards.insert().values(
            version=version,
            shard=sub.shard,
            blob=sub.blob,
            exact=sub.exact,
            removed_upto=sub.removed_upto,
            exact_upto=sub.exact_upto,
            checkpoints=json.dumps([[record.slice, record.lineage_key, record.blob] for record in sub.checkpoints]),
            error_spent=sub.error_spent,
        )
    )
