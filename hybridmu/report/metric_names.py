"""Every metric, named once: what Ray's exporter and `/metrics` of the HTTP interface give to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hybridmu.store.ledger.health import Vitals


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: With the prefix; Ray puts another `ray_` before it.
        about: Its help text, with the unit.
        tag: Its only label, or none; values are few and known.
    """

    name: str
    about: str
    tag: str | None = None


@dataclass(frozen=True)
class Sample:
    """A value of a metric, for one value of its tag."""

    metric: Metric
    value: float
    label: str | None = None


REQUESTS = Metric("hybridmu_requests", "Requests by state.", "state")
UNSERVED = Metric("hybridmu_oldest_unserved_seconds", "Age of the oldest request that is not served, in seconds.")
UNPURGED = Metric("hybridmu_oldest_unpurged_seconds", "Age of the oldest request that is not purged, in seconds.")
OVERDUE = Metric("hybridmu_overdue_requests", "Requests past their deadline that are not purged.")
DEADLINE = Metric("hybridmu_next_deadline_seconds", "Seconds until the next deadline of a request that is not purged.")
JOBS = Metric("hybridmu_jobs", "Shard jobs so far, by strategy.", "strategy")
ESTIMATED = Metric("hybridmu_estimated_job_seconds", "Seconds that all jobs so far were estimated to take.", "strategy")
MEASURED = Metric("hybridmu_measured_job_seconds", "Seconds that all jobs so far took.", "strategy")
VERSION = Metric("hybridmu_version", "The model version that the serving pointer names.")
REPLICAS = Metric("hybridmu_replicas", "Replicas with a running lease.")
LAG = Metric("hybridmu_replica_lag_versions", "Versions that the slowest replica is behind the pointer.")
COORDINATOR = Metric("hybridmu_coordinator_up", "1 while a coordinator holds the lease.")
HOLDS = Metric("hybridmu_legal_holds", "Legal holds in force.")
UNDELIVERED = Metric("hybridmu_undelivered_requests", "Requests that some linked model does not have yet.")
WEBHOOKS_WAITING = Metric("hybridmu_webhooks_waiting", "Events that receivers of webhooks have still to be told.")
WEBHOOKS_DEAD = Metric("hybridmu_webhooks_dead", "Events that were given up, until they are tried again or dropped.")
WEBHOOKS_OLDEST = Metric(
    "hybridmu_webhooks_oldest_seconds", "Age of the oldest event that is not acknowledged, in seconds."
)
QUALITY = Metric("hybridmu_quality", "Metrics of the served version's answers on held-out rows.", "metric")

LEDGER = (
    REQUESTS,
    UNSERVED,
    UNPURGED,
    OVERDUE,
    DEADLINE,
    JOBS,
    ESTIMATED,
    MEASURED,
    VERSION,
    REPLICAS,
    LAG,
    COORDINATOR,
    HOLDS,
    UNDELIVERED,
    WEBHOOKS_WAITING,
    WEBHOOKS_DEAD,
    WEBHOOKS_OLDEST,
    QUALITY,
)

# What a replica says of itself.
SWAP = Metric("hybridmu_swap_seconds", "From reading the pointer to the last answer of the version before, in seconds.")
ANSWERING = Metric("hybridmu_answering_version", "The model version that a replica answers with.")
WITHHELD = Metric("hybridmu_withheld_shards", "Sub-models that a replica does not let vote.")
REPLICA = (SWAP, ANSWERING, WITHHELD)
SWAP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def samples(vitals: Vitals) -> Iterator[Sample]:
    """Yield the values of all metrics of the ledger; one without a value now is left out.

    Args:
        vitals: From `read_vitals`.
    """
    for state, count in vitals.requests.items():
        yield Sample(REQUESTS, count, state.lower())
    yield Sample(UNSERVED, vitals.oldest_unserved_seconds)
    yield Sample(UNPURGED, vitals.oldest_unpurged_seconds)
    yield Sample(OVERDUE, vitals.overdue)
    if vitals.next_deadline_seconds is not None:
        yield Sample(DEADLINE, vitals.next_deadline_seconds)
    for strategy, jobs in vitals.jobs.items():
        yield Sample(JOBS, jobs.count, strategy)
        yield Sample(ESTIMATED, jobs.estimated_seconds, strategy)
        yield Sample(MEASURED, jobs.measured_seconds, strategy)
    yield Sample(VERSION, vitals.version)
    yield Sample(REPLICAS, vitals.replicas)
    yield Sample(LAG, vitals.lag)
    yield Sample(COORDINATOR, float(vitals.coordinator))
    yield Sample(HOLDS, vitals.holds)
    yield Sample(UNDELIVERED, vitals.undelivered)
    yield Sample(WEBHOOKS_WAITING, vitals.webhooks_waiting)
    yield Sample(WEBHOOKS_DEAD, vitals.webhooks_dead)
    yield Sample(WEBHOOKS_OLDEST, vitals.webhooks_oldest_seconds)
    for name, value in vitals.quality.items():
        yield Sample(QUALITY, value, name)
