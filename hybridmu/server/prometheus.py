"""The ledger's metrics as Prometheus reads them, also while no coordinator and no Ray is there."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hybridmu.report.metric_names import LEDGER, samples
from hybridmu.store.ledger.health import Vitals


def exposition(vitals: Vitals) -> bytes:
    """Return the text format.

    Args:
        vitals: From `System.vitals`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(vitals))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric once."""
        families = {
            metric: GaugeMetricFamily(metric.name, metric.about, labels=[metric.tag] if metric.tag else None)
            for metric in LEDGER
        }
        for sample in samples(self._vitals):
            families[sample.metric].add_metric([sample.label] if sample.label is not None else [], sample.value)
        yield from families.values()
