"""Capacity that a load of deletions needs, simulated from what this system measured."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridmu.errors import RequestError
from hybridmu.planning import cost
from hybridmu.planning.arrivals import Arrival
from hybridmu.planning.cost import schedule
from hybridmu.planning.planner import Pools
from hybridmu.planning.simulator import Known, Outcome, Overheads, Shape, poisson, simulate
from hybridmu.planning.sizing import enough, sizes
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.system.arguments import Arrivals, Count, Counts, Figure, Keys, Moment, Number, Strategy, checked
from hybridmu.system.session import Session

_HISTORY = 200
# So many requests are enough for a 95th percentile, and are simulated in a minute.
_MOST = 20_000


class Capacity:
    """Simulations of one system under a load of deletions.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def size(
        self,
        requests_per_day: Figure,
        deadline_seconds: Figure,
        *,
        rows: Count = 1,
        days: Figure = 7.0,
        strategy: Strategy = "auto",
        workers: Counts = None,
        seed: Number = 0,
    ) -> dict[str, Any]:
        """Return how a load of deletions would fare on more and more workers.

        Costs are those that this system measured, on the devices that measured them; a worker holds
        `cluster.gpus_per_shard` GPUs or `cluster.cpus_per_shard` CPUs. Nothing is changed.

        Args:
            requests_per_day: On average, at random moments.
            deadline_seconds: From a request to its exact removal.
            rows: Of each request, drawn evenly.
            days: How long the simulated load lasts; shorter when that would be more than 20,000 requests.
            strategy: `auto`, or one for every request.
            workers: Numbers of workers to try; powers of two up to the number of shards by default.
            seed: Of the load.

        Returns:
            JSON-able: `sizes`, the least `workers` with no late request (None: none of them), and what it rests on.

        Raises:
            RequestError: A figure is not above 0.
        """
        session = self._session
        known, days = self._known(), min(days, _MOST / requests_per_day)
        load = poisson(known.shape, requests_per_day, days, rows, seed)
        found = sizes(known, load, days, deadline_seconds, session.settings.cluster.updaters, strategy, workers)
        best = enough(found)
        return {
            "workers": best.workers if best else None,
            "requests": len(load),
            "days": days,
            "sizes": [asdict(size) for size in found],
            "overheads": asdict(known.overheads),
            "observations": {name: fit.observations for name, fit in known.cost.fits.items()},
            "devices_per_worker": session.settings.cluster.gpus_per_shard or session.settings.cluster.cpus_per_shard,
            "device": "GPU" if session.settings.cluster.gpus_per_shard else "CPU",
        }

    @checked
    def simulate(self, arrivals: Arrivals, workers: Count, strategy: Strategy = "auto", seed: Number = 0) -> Outcome:
        """Return how requests would fare on some number of workers; nothing is changed.

        Args:
            arrivals: The requests; `arrival` makes one of ids.
            workers: Jobs at once.
            strategy: `auto`, or one for every request.
            seed: Of the spread of seconds.

        Raises:
            RequestError: A request names a shard or slice that this system does not have.
        """
        known = self._known()
        for number, arrival in enumerate(arrivals):
            _check_places(f"arrivals[{number}]", arrival, known.shape)
        return simulate(known, arrivals, Pools(workers, self._session.settings.cluster.updaters), strategy, seed)

    @checked
    def arrival(self, at: Moment, ids: Keys) -> Arrival:
        """Return a request of rows for `simulate`; ids that have no row are left out.

        Args:
            at: Seconds since the start.
            ids: Row ids.
        """
        found, _ = Lookup(self._session.lake).find([("id", each) for each in ids])
        return Arrival(at, Counter((key.shard, key.slice) for key in found if key.slice > 0))

    def _known(self) -> Known:
        session = self._session
        session.check_bound()
        planner = session.removal_planner()
        subs = session.registry.version().shards
        counts = session.ledger.counts([sub.shard for sub in subs])
        stats = [planner.stats(sub, counts.get(sub.shard, {}), {}) for sub in subs]
        return Known(
            Shape(tuple(each.rows for each in stats), tuple(each.epochs for each in stats)),
            cost.fit(session.measurements.costs()),
            policy_of(session.settings),
            planner.calibration(),
            self._overheads(),
        )

    def _overheads(self) -> Overheads:
        """Return what requests took beside their jobs: medians of those that waited for nothing else."""
        session = self._session
        done = [r for r in session.ledger.requests() if r.applied_at and r.served_at][-_HISTORY:]
        beside, serving = [], []
        for request in done:
            first = [row for row in session.measurements.outcomes(request.request_id) if row["rule"] != "repair"]
            if not first or request.applied_at is None or request.served_at is None:
                continue
            took = max(schedule([row["measured_seconds"] for row in first], len(first)))
            beside.append(max(0.0, request.applied_at - request.received_at - took))
            serving.append(request.served_at - request.applied_at)
        if not beside:
            return Overheads()
        return Overheads(start=fast_quarter(beside), job=0.0, publish=0.0, serve=statistics.median(serving))


def fast_quarter(seconds: Sequence[float]) -> float:
    """Return the first quartile of lengths of time, of one at least: those that waited for others are the slow half.

    It lies between the least and the greatest of them, also of two: no time is below 0.

    Example:
        >>> fast_quarter([0.125, 2.125]), fast_quarter([3.0])
        (0.625, 3.0)
    """
    return statistics.quantiles(seconds, n=4, method="inclusive")[0] if len(seconds) > 1 else seconds[0]


def _check_places(name: str, arrival: Arrival, shape: Shape) -> None:
    for shard, slice_ in arrival.rows:
        slices = len(shape.rows[shard]) if shard < len(shape.rows) else 0
        if not 1 <= slice_ <= slices:
            raise RequestError(
                f"{name} names a shard or slice that this system does not have",
                expected=f"shards 0 to {len(shape.rows) - 1}, and slices 1 to {slices}"
                if slices
                else f"shards 0 to {len(shape.rows) - 1}",
                got=f"shard {shard}, slice {slice_}",
                remedy="System.arrival makes requests of ids",
            )
