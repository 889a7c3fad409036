"""Metrics through Ray's exporter: the coordinator's from the ledger, and those of each replica."""

from __future__ import annotations

import time

from ray.util.metrics import Gauge, Histogram

from hybridmu.report.metric_names import ANSWERING, LEDGER, SWAP, SWAP_BOUNDS, WITHHELD, samples
from hybridmu.store.ledger.database import Database

_EVERY_SECONDS = 2.0


class LedgerMetrics:
    """The ledger's metrics, shown at most every two seconds.

    Args:
        database: Of the system.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._next = database, 0.0
        self._gauges = {
            metric: Gauge(metric.name, metric.about, (metric.tag,) if metric.tag else ()) for metric in LEDGER
        }

    def show(self) -> None:
        """Set all gauges from the ledger, if that is due."""
        if time.monotonic() < self._next:
            return
        for sample in samples(self._database.vitals()):
            tag = sample.metric.tag
            self._gauges[sample.metric].set(sample.value, {tag: sample.label or ""} if tag else None)
        self._next = time.monotonic() + _EVERY_SECONDS


class ReplicaMetrics:
    """Metrics of one replica; its node and process are labels that Ray adds."""

    def __init__(self) -> None:
        self._swap = Histogram(SWAP.name, SWAP.about, list(SWAP_BOUNDS))
        self._version, self._withheld = (Gauge(metric.name, metric.about) for metric in (ANSWERING, WITHHELD))

    def swapped(self, seconds: float, version: int, withheld: int) -> None:
        """Show that the replica answers with another version or vote.

        Args:
            seconds: Since it read what was due, until nothing answered as before.
            version: What it answers with.
            withheld: Sub-models that do not vote.
        """
        self._swap.observe(seconds)
        self._version.set(version)
        self._withheld.set(withheld)
