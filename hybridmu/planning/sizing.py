"""Number of workers that a load of deletions needs, found by simulation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridmu.planning.arrivals import Arrival
from hybridmu.planning.planner import Pools
from hybridmu.planning.simulator import Known, Outcome, simulate
from hybridmu.types import StrategyChoice

MAX_WORKERS = 1024


@dataclass(frozen=True)
class Size:
    """Times of a load on a number of workers.

    Attributes:
        workers: Jobs at once.
        served_p50: Median seconds from request to served.
        served_p95: 95th percentile.
        exact_p95: 95th percentile until every touched shard is exact.
        exact_worst: The slowest of all.
        late: Requests not exact by the deadline.
        device_hours_per_day: Of all jobs.
        utilisation: Share of the time that workers are busy.
    """

    workers: int
    served_p50: float
    served_p95: float
    exact_p95: float
    exact_worst: float
    late: int
    device_hours_per_day: float
    utilisation: float


def sizes(
    known: Known,
    arrivals: Sequence[Arrival],
    days: float,
    deadline_seconds: float,
    updaters: int,
    strategy: StrategyChoice = "auto",
    workers: Sequence[int] | None = None,
) -> list[Size]:
    """Return how a load fares on more and more workers.

    Args:
        known: The system.
        arrivals: The load.
        days: That it stretches over.
        deadline_seconds: From a request to its exact removal.
        updaters: Central updaters.
        strategy: `auto`, or one for all.
        workers: Which numbers to try; 1, 2, 4, … up to as many as there are shards, and at most 1,024, by default.
    """
    most = min(MAX_WORKERS, len(known.shape.rows))
    tried = workers or [2**n for n in range(most.bit_length()) if 2**n < most] + [most]
    outcomes = ((count, simulate(known, arrivals, Pools(count, updaters), strategy)) for count in tried)
    return [_size(count, outcome, days, deadline_seconds) for count, outcome in outcomes]


def enough(found: Sequence[Size]) -> Size | None:
    """Return the least number of workers with which no request is late, or None."""
    return min((size for size in found if not size.late), key=lambda size: size.workers, default=None)


def _size(workers: int, outcome: Outcome, days: float, deadline: float) -> Size:
    served = np.array([request.served - request.at for request in outcome.requests] or [0.0])
    exact = np.array([request.exact - request.at for request in outcome.requests] or [0.0])
    length = max(days * 86_400, outcome.ended)
    return Size(
        workers=workers,
        served_p50=float(np.percentile(served, 50)),
        served_p95=float(np.percentile(served, 95)),
        exact_p95=float(np.percentile(exact, 95)),
        exact_worst=float(exact.max()),
        late=int((exact > deadline).sum()),
        device_hours_per_day=outcome.busy_seconds / 3600 / (length / 86_400),
        utilisation=outcome.busy_seconds / (workers * length),
    )
