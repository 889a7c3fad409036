"""Evaluations: the quality of versions, measured once each."""

from __future__ import annotations

import json
import time
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core.metrics import name_of, targets_of
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader, transaction
from hybridmu.store.ledger.lease import fence
from hybridmu.types import ExpectedFit, ExpectedQuality, Quality, SplitQuality


class Evaluations:
    """Quality of versions, as measured by evaluation jobs.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def record(self, token: int, quality: Quality) -> None:
        """Keep the quality of a version, fenced; what is kept already stays.

        Args:
            token: The coordinator's fencing token.
            quality: Without splits when the version could not be evaluated.
        """
        document = {
            one.split: {"rows": one.rows, "ensemble": one.ensemble, "sub_models": one.sub_models}
            for one in quality.splits
        }
        values = {"version": quality.version, "evaluated_at": time.time(), "seconds": quality.seconds}
        with transaction(self._write, "evaluation") as connection:
            fence(connection, token)
            there = connection.scalar(
                sa.select(t.evaluations.c.version).where(t.evaluations.c.version == quality.version)
            )
            if there is None:
                connection.execute(t.evaluations.insert().values(**values, document=json.dumps(document)))

    def of(self, versions: Collection[int]) -> dict[int, Quality]:
        """Return version → quality, of those that were evaluated."""
        with self._read.begin() as connection:
            rows = connection.execute(t.evaluations.select().where(t.evaluations.c.version.in_(sorted(versions))))
            return {row.version: _quality(row) for row in rows}

    def newest(self) -> Quality | None:
        """Return the quality of the newest version that was evaluated; None when none was."""
        with self._read.begin() as connection:
            row = connection.execute(t.evaluations.select().order_by(t.evaluations.c.version.desc()).limit(1)).first()
            return None if row is None else _quality(row)

    def expected(self, last: int = 20) -> ExpectedQuality | ExpectedFit | None:
        """Return the accuracy or R² of the newest evaluated version, and what the versions before it changed.

        Args:
            last: How many versions are looked back.

        Returns:
            None when none was evaluated, or its figure is undefined.
        """
        with self._read.begin() as connection:
            query = t.evaluations.select().order_by(t.evaluations.c.version.desc()).limit(last + 1)
            found = [_quality(row) for row in connection.execute(query)][::-1]
        if not found or (split := found[-1].first) is None:
            return None
        metric = "r2" if "r2" in split.ensemble else "accuracy"
        if (now := split.ensemble.get(metric)) is None:
            return None
        known = {one.version: one.on(split.split) for one in found}
        values = {version: one.ensemble.get(metric) for version, one in known.items() if one is not None}
        pairs = [(values.get(version - 1), value) for version, value in values.items()]
        changes = tuple(after - before for before, after in pairs if before is not None and after is not None)
        if metric == "accuracy":
            return ExpectedQuality(found[-1].version, split.split, now, changes)
        each = tuple((name, split.ensemble[name_of(metric, name)]) for name in targets_of(split.ensemble))
        return ExpectedFit(found[-1].version, split.split, now, changes, each)

    def awaits(self, version: int) -> bool:
        """Return whether a version is not evaluated yet, where an earlier one was."""
        done = t.evaluations.c.version
        with self._read.begin() as connection:
            return bool(connection.scalar(sa.select(sa.func.min(done)))) and not connection.scalar(
                sa.select(sa.func.count()).where(done == version)
            )

    def lacking(self) -> int | None:
        """Return the newest version without an evaluation; of those before the first evaluated one, none is missed."""
        done, versions = t.evaluations.c.version, t.versions.c.version
        with self._read.begin() as connection:
            first = connection.scalar(sa.select(sa.func.min(done)))
            query = sa.select(sa.func.max(versions)).where(versions.not_in(sa.select(done)))
            found = connection.scalar(query if first is None else query.where(versions > first))
            return None if found is None else int(found)


def _quality(row: sa.Row[tuple[int, float, float, str]]) -> Quality:
    splits = tuple(
        SplitQuality(
            split,
            found["rows"],
            found["ensemble"],
            {int(shard): figures for shard, figures in found["sub_models"].items()},
        )
        for split, found in json.loads(row.document).items()
    )
    return Quality(row.version, row.evaluated_at, row.seconds, splits)
