"""Health of the system, in a few numbers from the ledger; cheap enough to be asked every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.evaluations import Evaluations
from hybridmu.store.ledger.lease import COORDINATOR
from hybridmu.types import RequestState

_UNSERVED = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)


@dataclass(frozen=True)
class Jobs:
    """All jobs of one strategy so far: how many, and their seconds as estimated and as measured."""

    count: int
    estimated_seconds: float
    measured_seconds: float


@dataclass(frozen=True)
class Vitals:
    """What an operator watches. Nothing in it names a row, a person or a caller.

    Attributes:
        requests: Number of requests per state, every state.
        oldest_unserved_seconds: Age of the oldest request that some answer may still know; 0 without one.
        oldest_unpurged_seconds: Age of the oldest one whose rows are still in a file; 0 without one.
        overdue: Requests past their deadline and not purged.
        next_deadline_seconds: Until the next deadline of a request that is not purged; None without one.
        jobs: Strategy → its jobs.
        version: What the pointer names; 0 before training.
        replicas: Unexpired replicas.
        lag: Versions that the slowest of them is behind the pointer.
        coordinator: Whether somebody holds the lease.
        holds: Legal holds in force.
        undelivered: Requests that some linked model does not have yet.
        webhooks_waiting: Events that some receiver has still to be told, without those that were given up.
        webhooks_dead: Events that were given up.
        webhooks_oldest_seconds: Age of the oldest of both; 0 without one.
        quality: Metric → figure of the newest evaluated version, on the test table, or else on validation rows.
    """

    requests: Mapping[str, int]
    oldest_unserved_seconds: float
    oldest_unpurged_seconds: float
    overdue: int
    next_deadline_seconds: float | None
    jobs: Mapping[str, Jobs]
    version: int
    replicas: int
    lag: int
    coordinator: bool
    holds: int
    undelivered: int
    webhooks_waiting: int
    webhooks_dead: int
    webhooks_oldest_seconds: float
    quality: Mapping[str, float]


def read_vitals(engine: Engine) -> Vitals:
    """Return how the system is doing now; aggregates alone.

    Args:
        engine: From `opening.connect`.
    """
    asked, now = t.requests.c, time.time()
    measured = Evaluations(engine).newest()
    held_out = None if measured is None else measured.first
    unpurged = asked.state.in_([*_UNSERVED, RequestState.PROPOSED, RequestState.SERVED, RequestState.FAILED])
    with reader(engine).begin() as connection:
        states = connection.execute(sa.select(asked.state, sa.func.count()).group_by(asked.state)).all()
        unserved = connection.scalar(sa.select(sa.func.min(asked.received_at)).where(asked.state.in_(_UNSERVED)))
        oldest, deadline = connection.execute(
            sa.select(sa.func.min(asked.received_at), sa.func.min(asked.deadline_at)).where(unpurged)
        ).one()
        late = sa.select(sa.func.count()).select_from(t.requests).where(unpurged & (asked.deadline_at < now))
        overdue = connection.scalar(late)
        done = t.outcomes.c
        jobs = connection.execute(
            sa.select(
                done.strategy,
                sa.func.count(),
                sa.func.sum(done.estimated_seconds),
                sa.func.sum(done.measured_seconds),
            ).group_by(done.strategy)
        ).all()
        version = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
        replicas, slowest = connection.execute(
            sa.select(sa.func.count(), sa.func.min(t.replicas.c.version)).where(t.replicas.c.expires_at > now)
        ).one()
        leases = sa.select(sa.func.count()).select_from(t.leases)
        leases = leases.where((t.leases.c.name == COORDINATOR) & (t.leases.c.expires_at > now))
        holds = sa.select(sa.func.count()).select_from(t.holds).where(t.holds.c.lifted_at.is_(None))
        waiting = sa.select(sa.func.count(t.outbox.c.request_id))
        told = t.webhook_events.c
        kept = sa.select(sa.func.count(), sa.func.count(told.dead_at), sa.func.min(told.occurred_at))
        events, dead, first = connection.execute(kept.select_from(t.webhook_events)).one()
        return Vitals(
            requests=dict.fromkeys(map(str, RequestState), 0) | {str(state): count for state, count in states},
            oldest_unserved_seconds=max(0.0, now - unserved) if unserved else 0.0,
            oldest_unpurged_seconds=max(0.0, now - oldest) if oldest else 0.0,
            overdue=int(overdue or 0),
            next_deadline_seconds=None if deadline is None else deadline - now,
            jobs={name: Jobs(count, estimated, measured) for name, count, estimated, measured in jobs},
            version=version,
            replicas=replicas,
            lag=0 if slowest is None else max(0, version - int(slowest)),
            coordinator=bool(connection.scalar(leases)),
            holds=int(connection.scalar(holds) or 0),
            undelivered=int(connection.scalar(waiting) or 0),
            webhooks_waiting=int(events) - int(dead),
            webhooks_dead=int(dead),
            webhooks_oldest_seconds=0.0 if first is None else max(0.0, now - first),
            quality={name: one for name, one in (held_out.ensemble if held_out else {}).items() if one is not None},
        )
