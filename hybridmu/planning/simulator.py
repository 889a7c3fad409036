"""A discrete-event simulation of a cluster that fulfils deletions, decided by the real planner. Deterministic by seed.

What happens is what the coordinator does: requests that share shards are started together, on shards that are not
busy; retrains run on the workers and updates on the updaters, longest first; a round is published when its last job
is done, and served a moment later; what an update changed is retrained exactly when no request waits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybridmu.core.strategies import get
from hybridmu.extras import extra
from hybridmu.kinds import FALLBACK
from hybridmu.planning.arrivals import Arrival
from hybridmu.planning.batching import claim
from hybridmu.planning.cost import CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, ShardPlan, ShardStats, StrategyChoice


@dataclass(frozen=True)
class Overheads:
    """Seconds of a request beside its jobs; measured on a running system.

    Attributes:
        start: From acceptance, or from the end of what it waited for, to the start of its first job.
        job: Between a job's start and its end, beyond what its worker counts as training: a call, a reservation.
        publish: From the end of the last job to a published version.
        serve: From there until every replica answers with it.
    """

    start: float = 0.05
    job: float = 0.02
    publish: float = 0.02
    serve: float = 0.05


@dataclass(frozen=True)
class Shape:
    """The trained system.

    Attributes:
        rows: Live rows per shard and slice.
        epochs: Epochs per shard and slice.
    """

    rows: tuple[tuple[int, ...], ...]
    epochs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Known:
    """Measurements of the simulated system.

    Attributes:
        shape: The trained system.
        cost: Fitted from outcomes; jobs take their estimates, times a lognormal factor of mean 1 with the fit's spread.
        policy: Of the planner.
        calibration: What canaries told.
        overheads: What is not in a job's seconds.
    """

    shape: Shape
    cost: CostModel
    policy: Policy
    calibration: Calibration = field(default_factory=Calibration)
    overheads: Overheads = field(default_factory=Overheads)


@dataclass(frozen=True)
class Done:
    """Times of a finished request, in seconds since the start.

    Attributes:
        at: When it was asked.
        served: When nothing answered with its rows any more.
        exact: When every touched shard that answers equalled a training without them.
    """

    at: float
    served: float
    exact: float


@dataclass(frozen=True)
class Outcome:
    """Outcome of a simulation.

    Attributes:
        requests: In the order of their arrival.
        busy_seconds: Device-seconds of all jobs.
        jobs: Number of jobs by strategy.
        ended: When the last request was exact.
    """

    requests: tuple[Done, ...]
    busy_seconds: float
    jobs: Mapping[str, int]
    ended: float

    @property
    def makespan(self) -> float:
        """Return the seconds from the first request to the last one that was served."""
        return max(r.served for r in self.requests) - min(r.at for r in self.requests) if self.requests else 0.0


def poisson(shape: Shape, per_day: float, days: float, rows: int, seed: int) -> list[Arrival]:
    """Return requests of rows drawn evenly, at random moments.

    Args:
        shape: Of the system; rows are drawn with replacement, which is near enough while few are deleted.
        per_day: Requests per day, on average.
        days: For how long.
        rows: Of each request.
        seed: The same seed gives the same requests.
    """
    draw = np.random.default_rng(seed)
    sizes = np.asarray(shape.rows, dtype=float)
    places, share = np.argwhere(sizes > 0), sizes[sizes > 0] / sizes.sum()
    moments = np.sort(draw.uniform(0, days * 86_400, draw.poisson(per_day * days)))
    found = []
    for moment in moments:
        chosen, counts = np.unique(draw.choice(len(places), rows, p=share), return_counts=True)
        where = [(int(places[n][0]), int(places[n][1]) + 1) for n in chosen]
        found.append(Arrival(float(moment), dict(zip(where, map(int, counts), strict=True))))
    return found


def simulate(
    known: Known, arrivals: Sequence[Arrival], pools: Pools, strategy: StrategyChoice = "auto", seed: int = 0
) -> Outcome:
    """Return how requests fare.

    Args:
        known: The system.
        arrivals: Requests, in any order.
        pools: Workers and updaters.
        strategy: `auto`, or one for all.
        seed: Of the spread of seconds.
    """
    return _World(known, pools, strategy, seed).simulate_arrivals(sorted(arrivals, key=lambda each: each.at))


@dataclass
class _Open:
    """A request that is not exact yet."""

    number: int
    arrival: Arrival
    waits: set[int]  # shards whose removal is not published
    owes: set[int] = field(default_factory=set)  # shards whose exact repair is not

    @property
    def shards(self) -> set[int]:
        return {shard for shard, _ in self.arrival.rows}


class _World:
    def __init__(self, known: Known, pools: Pools, strategy: StrategyChoice, seed: int) -> None:
        with extra("simulate"):
            import simpy
        self.env = simpy.Environment()
        self.workers = simpy.PriorityResource(self.env, pools.workers)
        self.updaters = simpy.PriorityResource(self.env, pools.updaters)
        self.known, self.pools, self.strategy = known, pools, strategy
        self.draw = np.random.default_rng(seed)
        shape = known.shape
        slices = max(map(len, shape.rows))
        self.rows = np.array([[*each, *[0] * (slices - len(each))] for each in shape.rows], dtype=np.int64)
        self.revoked = np.zeros_like(self.rows)  # since the last exact run
        self.fresh = np.zeros_like(self.rows)  # of these, in no published version yet
        self.spent = np.zeros(len(shape.rows))
        self.busy: set[int] = set()
        self.waiting: list[_Open] = []
        self.open: list[_Open] = []
        self.done: dict[int, list[float]] = {}
        self.jobs: dict[str, int] = {}
        self.seconds = 0.0
        self.wake = self.env.event()

    def simulate_arrivals(self, arrivals: Sequence[Arrival]) -> Outcome:
        self.env.process(self._arrive(arrivals))
        self.env.process(self._coordinate())
        self.env.run()
        requests = tuple(Done(each.at, *self.done[number]) for number, each in enumerate(arrivals))
        ended = max((request.exact for request in requests), default=0.0)
        return Outcome(requests, self.seconds, self.jobs, ended)

    def _arrive(self, arrivals: Iterable[Arrival]) -> Generator[Any, Any, None]:
        for number, arrival in enumerate(arrivals):
            yield self.env.timeout(arrival.at - self.env.now)
            self.waiting.append(_Open(number, arrival, {shard for shard, _ in arrival.rows}))
            for (shard, slice_), rows in arrival.rows.items():
                left = self.rows[shard, slice_ - 1] - self.revoked[shard, slice_ - 1]
                gone = min(rows, int(left))
                self.revoked[shard, slice_ - 1] += gone
                self.fresh[shard, slice_ - 1] += gone
            self._ring()

    def _ring(self) -> None:
        if not self.wake.triggered:
            self.wake.succeed()

    def _coordinate(self) -> Generator[Any, Any, None]:
        while True:
            yield self.wake
            self.wake = self.env.event()
            names = {each.number: each for each in self.waiting}
            groups = claim({number: each.shards for number, each in names.items()}, self.busy)
            for group in groups:
                taken = [names[number] for number in group]
                self.waiting = [each for each in self.waiting if each.number not in set(group)]
                self._launch(taken, set().union(*(each.shards for each in taken)), self.strategy)
            if not self.waiting and not self.busy:
                for shard in sorted({shard for each in self.open for shard in each.owes}):
                    self._launch([], {shard}, FALLBACK)

    def _launch(self, group: list[_Open], shards: set[int], strategy: StrategyChoice) -> None:
        known = self.known
        self.busy |= shards
        self.open += group
        stats = [self._stats(shard) for shard in sorted(shards)]
        plan = make_plan(stats, known.cost, known.policy, self.pools, known.calibration, strategy)
        included = self.revoked[sorted(shards)].copy()
        self.env.process(self._round(plan.shards, shards, included))

    def _stats(self, shard: int) -> ShardStats:
        epochs = self.known.shape.epochs[shard]
        slices = slice(0, len(epochs))
        return ShardStats(
            shard,
            epochs,
            tuple(map(int, self.rows[shard, slices])),
            tuple(map(int, self.revoked[shard, slices])),
            tuple(map(int, self.fresh[shard, slices])),
            (True,) * len(epochs),
            error_spent=float(self.spent[shard]),
        )

    def _round(self, plans: Sequence[ShardPlan], shards: set[int], included: Any) -> Generator[Any, Any, None]:
        fresh = {shard: self.fresh[shard].copy() for shard in shards}
        yield self.env.timeout(self.known.overheads.start)
        yield self.env.all_of([self.env.process(self._job(plan)) for plan in plans])
        yield self.env.timeout(self.known.overheads.publish)
        for place, shard in enumerate(sorted(shards)):
            plan = next(each for each in plans if each.shard == shard)
            exact = get(plan.strategy).exact
            self.fresh[shard] -= fresh[shard]
            if exact:
                self.rows[shard] -= included[place]
                self.revoked[shard] -= included[place]
                self.spent[shard] = 0.0
            else:
                self.spent[shard] += plan.predicted_error
            for each in self.open:
                if shard in each.waits:
                    each.waits.discard(shard)
                    if not exact:
                        each.owes.add(shard)
                elif exact:
                    each.owes.discard(shard)
        self.busy -= shards
        for each in self.open:
            if not each.waits:
                times = self.done.setdefault(each.number, [self.env.now + self.known.overheads.serve])
                if not each.owes:
                    times.append(self.env.now + self.known.overheads.serve)
        self.open = [each for each in self.open if each.waits or each.owes]
        self._ring()

    def _job(self, plan: ShardPlan) -> Generator[Any, Any, None]:
        pool = self.workers if get(plan.strategy).place == "shard" else self.updaters
        fit = self.known.cost.fits.get(plan.strategy)
        spread = min(fit.spread, 0.5) if fit else 0.0
        factor = float(np.exp(self.draw.normal(-(spread**2) / 2, spread)))  # of mean 1: estimates are means
        taken = plan.estimated_seconds * factor
        with pool.request(priority=-round(1000 * plan.estimated_seconds)) as turn:
            yield turn
            yield self.env.timeout(taken + self.known.overheads.job)
        self.seconds += taken
        self.jobs[plan.strategy] = self.jobs.get(plan.strategy, 0) + 1
