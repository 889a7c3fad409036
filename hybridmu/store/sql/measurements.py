"""What was measured: plan against actual, costs that the planner learns from, and the calibrated α."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.store.sql import tables as t
from hybridmu.store.sql.database import reader, transaction
from hybridmu.store.sql.lease import fence
from hybridmu.types import Calibration, CalibrationBucket, CostObservation, ShardOutcome, ShardPlan

_COST_WINDOW = 400


class Measurements:
    """Costs, calibration, and plan against actual.

    Args:
        engine: From `database.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def outcomes(self, request_id: str) -> list[dict[str, Any]]:
        """Return plan against actual of every round that worked for a request, per shard it touched, oldest first."""
        query = (
            sa
            .select(t.outcomes)
            .join(t.rounds, t.rounds.c.round_id == t.outcomes.c.round_id)
            .where(t.rounds.c.request_id == request_id)
            .where(t.outcomes.c.shard.in_(sa.select(t.needs.c.shard).where(t.needs.c.request_id == request_id)))
            .order_by(t.outcomes.c.id)
        )
        with self._read.begin() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        for row in rows:
            row["reasons"] = json.loads(row["reasons"])
        return rows

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
        return Calibration(
            tuple(
                CalibrationBucket(**{**bucket, "keys": tuple(bytes.fromhex(key) for key in bucket["keys"])})
                for bucket in json.loads(raw)
            )
        )

    def set_calibration(self, token: int, calibration: Calibration) -> None:
        """Replace the fitted α, fenced."""
        buckets = [{**asdict(bucket), "keys": [key.hex() for key in bucket.keys]} for bucket in calibration.buckets]
        with transaction(self._write, "calibration") as connection:
            fence(connection, token)
            connection.execute(t.meta.delete().where(t.meta.c.key == "calibration"))
            connection.execute(t.meta.insert().values(key="calibration", value=json.dumps(buckets)))


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
