"""Simulations of clusters that nobody had here: up to 1,024 workers for 4,096 shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from hybridmu.core.kernel.training import slice_epochs
from hybridmu.planning.arrivals import Arrival
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.planner import Policy, Pools
from hybridmu.planning.simulator import Known, Shape, poisson, simulate
from hybridmu.planning.sizing import sizes

SHARDS, SLICES, ROWS, RETRAIN_SECONDS = 4096, 5, 1000, 60.0
WORKERS = (16, 64, 256, 1024)
PER_DAY, DEADLINE = 5000, 3600.0


@dataclass(frozen=True)
class Foreseen:
    """One simulation; nothing of it was measured.

    Attributes:
        load: `everywhere`: one request with a row of the first slice of every shard; `stream`: 5,000 requests of four
            rows, over a day.
        workers: Jobs at once.
        served_seconds: Until the last request is served (`everywhere`), or the 95th percentile of each.
        worst_seconds: The slowest request.
        late: Requests not exact within an hour.
        device_hours: Of all jobs.
        utilisation: Share of the time that workers are busy.
    """

    load: str
    workers: int
    served_seconds: float
    worst_seconds: float
    late: int
    device_hours: float
    utilisation: float


def system() -> Known:
    """Return a system in which training a shard again takes a minute."""
    epochs = slice_epochs(10, SLICES)
    visits = sum(each * ROWS * n for n, each in enumerate(epochs, start=1))
    cost = CostModel({"retrain": Coefficients(RETRAIN_SECONDS / visits, 0.0, 0.1, 100)})
    return Known(Shape(((ROWS,) * SLICES,) * SHARDS, (epochs,) * SHARDS), cost, Policy())


def foresee() -> Iterator[Foreseen]:
    """Yield all simulations; the same every time."""
    known = system()
    everywhere = [Arrival(0.0, {(shard, 1): 1 for shard in range(SHARDS)})]
    for workers in WORKERS:
        found = simulate(known, everywhere, Pools(workers, 1), "retrain")
        (one,) = found.requests
        busy = found.busy_seconds
        late = int(one.exact > DEADLINE)
        yield Foreseen("everywhere", workers, one.served, one.exact, late, busy / 3600, busy / workers / found.ended)
    stream = poisson(known.shape, PER_DAY, 1.0, 4, seed=0)
    for size in sizes(known, stream, 1.0, DEADLINE, 1, "retrain", WORKERS):
        hours, share = size.device_hours_per_day, size.utilisation
        yield Foreseen("stream", size.workers, size.served_p95, size.exact_worst, size.late, hours, share)


def lines(folder: Path) -> list[tuple[str, ...]]:
    """Return the table."""
    return [
        (
            each.load,
            f"{each.workers:,}",
            f"{each.served_seconds:,.0f} s",
            f"{each.worst_seconds:,.0f} s",
            str(each.late),
            f"{each.device_hours:.0f}",
            f"{100 * each.utilisation:.0f} %",
        )
        for each in csvfile.read(folder / "foreseen.csv", Foreseen)
    ]


HEAD = ("load", "workers", "served", "slowest", "later than an hour", "device-hours", "busy")
