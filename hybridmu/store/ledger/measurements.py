"""Measurements: plan against actual, costs that the planner learns from, and the calibrated α."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.core.calibration.fit import fit, usable
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.lease import fence
from hybridmu.types import (
    Calibration,
    CalibrationCell,
    CalibrationCurve,
    CanaryControls,
    CostObservation,
    ShardOutcome,
    ShardPlan,
)

_COST_WINDOW = 400
# Under this key `meta` keeps the seconds that measuring canaries again took.
_SPENT = "calibrating"
# Under this one, JSON, what the first calibration took, and whether it is over.
_FIRST = "first calibration"


@dataclass(frozen=True)
class FirstCalibration:
    """Where the first calibration stands: the seconds that it took, and whether it is over."""

    seconds: float = 0.0
    over: bool = False


class Measurements:
    """Costs, calibration, and plan against actual.

    Args:
        engine: From `opening.connect`.
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

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return plan against actual of the last jobs of all requests, newest first."""
        query = t.outcomes.select().order_by(t.outcomes.c.id.desc()).limit(limit)
        with self._read.begin() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def costs(self) -> list[CostObservation]:
        """Return the newest measured outcomes."""
        query = t.costs.select().order_by(t.costs.c.id.desc()).limit(_COST_WINDOW)
        with self._read.begin() as connection:
            found = connection.execute(query)
            every = [CostObservation(r.strategy, r.visits, r.checkpoints, r.seconds, r.rows) for r in found]
        return [one for one in every if _counts(one.seconds)]

    def calibration(self) -> Calibration:
        """Return what all curves together give, those of revoked canaries included; empty before calibration."""
        return fit(self.curves())

    def curves(self) -> list[CalibrationCurve]:
        """Return what updates did to canaries, oldest first."""
        with self._read.begin() as connection:
            rows = connection.execute(t.curves.select().order_by(t.curves.c.id)).all()
        return [curve for row in rows for curve in _of(row) if usable(curve)]

    def add_curves(
        self, token: int, curves: Sequence[CalibrationCurve], spent: float = 0.0, first: bool = False
    ) -> None:
        """Add what a job measured, fenced; older curves of the same shard and cell are replaced.

        A curve with anything in it that is no number is left out: it is as if it had not been measured.

        Args:
            token: The coordinator's fencing token.
            curves: Of any cells.
            spent: Seconds that count against the budget for measuring again.
            first: They count against that of the first calibration instead.
        """
        apart: dict[tuple[int, CalibrationCell], list[CalibrationCurve]] = {}
        for curve in filter(usable, curves):
            apart.setdefault((curve.shard, curve.cell), []).append(curve)
        c = t.curves.c
        with transaction(self._write, "calibration") as connection:
            fence(connection, token)
            known = _first(connection)  # before any curve is there
            for (shard, cell), group in apart.items():
                same = (c.shard == shard) & (c.first_slice == cell.first_slice) & (c.share == cell.share)
                connection.execute(t.curves.delete().where(same))
                connection.execute(t.curves.insert().values(**_row(group)))
            if first:
                _put(connection, _FIRST, asdict(replace(known, seconds=known.seconds + _number(spent))))
            elif _counts(spent):
                _put(connection, _SPENT, _spent(connection) + spent)

    def first_calibration(self) -> FirstCalibration:
        """Return where the first calibration stands; what an older release has calibrated is over."""
        with self._read.begin() as connection:
            return _first(connection)

    def end_first_calibration(self, token: int) -> None:
        """Note that nothing lacks any more, or that its time is up, fenced."""
        with transaction(self._write, "calibration") as connection:
            fence(connection, token)
            _put(connection, _FIRST, asdict(replace(_first(connection), over=True)))

    def drop_curves(self, token: int, revoked: Collection[bytes]) -> int:
        """Delete what was measured with canaries that carry one of these digests, fenced.

        Returns:
            How many sets of canaries went; nothing is written when there is none.
        """
        gone = frozenset(revoked)
        with self._read.begin() as connection:
            rows = connection.execute(sa.select(t.curves.c.id, t.curves.c.digests)).all()
        spoiled = [row.id for row in rows if not gone.isdisjoint(_digests(row.digests))]
        if spoiled:
            with transaction(self._write, "calibration") as connection:
                fence(connection, token)
                for part in parts(spoiled):
                    connection.execute(t.curves.delete().where(t.curves.c.id.in_(part)))
        return len(spoiled)

    def effort(self) -> tuple[float, float]:
        """Return seconds of (training and removals, measuring canaries again), on all workers together."""
        with self._read.begin() as connection:
            # Old releases kept what was no number; PostgreSQL has it above all others, SQLite as null.
            counts = (t.costs.c.seconds > 0) & (t.costs.c.seconds <= sys.float_info.max)
            work = connection.scalar(sa.select(sa.func.sum(t.costs.c.seconds)).where(counts))
            return float(work or 0.0), _spent(connection)


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
                estimated_seconds=_number(plan.estimated_seconds),
                measured_seconds=_number(outcome.seconds),
            )
        )
    record_costs(connection, [outcome for _, outcome in pairs])


def record_costs(connection: Connection, outcomes: Iterable[ShardOutcome]) -> None:
    """Write what the cost model learns from outcomes, in the caller's transaction; without a time it learns nothing.

    Args:
        connection: The transaction.
        outcomes: Of any strategies.
    """
    for outcome in outcomes:
        if not _counts(outcome.seconds):
            continue
        connection.execute(
            t.costs.insert().values(
                strategy=outcome.strategy,
                visits=outcome.visits,
                checkpoints=sum(record.visits > 0 for record in outcome.slices) + outcome.checkpoints_read,
                seconds=outcome.seconds,
                rows=outcome.rows_read,
            )
        )


def _first(connection: Connection) -> FirstCalibration:
    raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _FIRST))
    if raw is not None:
        return FirstCalibration(**json.loads(raw))
    return FirstCalibration(over=bool(connection.scalar(sa.select(sa.func.count()).select_from(t.curves))))


def _put(connection: Connection, key: str, fact: object) -> None:
    connection.execute(t.meta.delete().where(t.meta.c.key == key))
    connection.execute(t.meta.insert().values(key=key, value=json.dumps(fact)))


def _spent(connection: Connection) -> float:
    return _number(float(connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _SPENT)) or 0.0))


def _counts(seconds: float | None) -> bool:
    """Return whether a time was measured: a number above 0."""
    return seconds is not None and math.isfinite(seconds) and seconds > 0


def _number(value: float) -> float:
    """Return a number that the ledger can hold: 0 for what is none, or below."""
    return value if _counts(value) else 0.0


def _row(group: Sequence[CalibrationCurve]) -> dict[str, Any]:
    """Return the table row of one set of canaries."""
    first = group[0]
    return {
        "shard": first.shard,
        "first_slice": first.cell.first_slice,
        "share": first.cell.share,
        "slices": first.slices,
        "canaries": first.canaries,
        "seconds": first.seconds,
        "updates": json.dumps({c.strategy: (c.gaps, c.deviations, c.accuracy_changes) for c in group}),
        "controls": json.dumps(asdict(first.controls)) if first.controls else None,
        "digests": b"".join(first.keys),
    }


def _of(row: Row[Any]) -> list[CalibrationCurve]:
    """Return the curves in a table row, one per update; none where it can't be read."""
    try:
        return _curves(row)
    except (ValueError, TypeError, AttributeError):  # it was damaged, or another release wrote it
        return []


def _curves(row: Row[Any]) -> list[CalibrationCurve]:
    cell, keys = CalibrationCell(row.first_slice, row.share), _digests(row.digests)
    return [
        CalibrationCurve(
            strategy=strategy,
            shard=row.shard,
            cell=cell,
            slices=row.slices,
            gaps=tuple(gaps),
            deviations=tuple(deviations),
            accuracy_changes=tuple(changes),
            canaries=row.canaries,
            keys=keys,
            seconds=row.seconds,
            controls=CanaryControls(**json.loads(row.controls)) if row.controls else None,
        )
        for strategy, (gaps, deviations, changes) in json.loads(row.updates).items()
    ]


def _digests(joined: bytes) -> tuple[bytes, ...]:
    return tuple(bytes(joined[at : at + 16]) for at in range(0, len(joined), 16))
