"""Results of running a contender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.study.worker import Made, Scores
from hybridmu.types import Plan

# Strategies that the planner prices, and those that go through it.
PRICED = ("retrain", "dpus", "dpus-optimised", "dpus-newton", "rewind")
PLANNED = ("auto", *PRICED)


@dataclass(frozen=True, eq=False)
class Trial:
    """One strategy on one deletion: its jobs' results, scored.

    Attributes:
        made: Per touched shard.
        scores: Touched shard → the new sub-model.
        wall_seconds: From dispatch to the last result.
        plan: The product's plan, where it has one.
        owing: Shards whose result is approximate: an exact retrain of them is still due.
        latencies: Of a stream: simulated seconds from every request's arrival to an applied version.
    """

    made: tuple[Made, ...]
    scores: Mapping[int, Scores]
    wall_seconds: float
    plan: Plan | None = None
    owing: frozenset[int] = frozenset()
    latencies: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """Return device-seconds."""
        return sum(made.seconds for made in self.made)
