"""Scheduler: the waiting requests that are begun now, together with which others, and by which plan."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from hybridmu.config import Settings
from hybridmu.core.strategies import asks_exact, strictest
from hybridmu.kinds import choices
from hybridmu.planning.batching import Batching, Waiting, claim, due
from hybridmu.planning.planner import Pools
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.coordinator.rounds import Round, new_id
from hybridmu.runtime.workers.isolation import apart
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.types import ForgetRequest, RequestState, SubModelRecord
from hybridmu.user_code import told


class Claimer:
    """Makes rounds of requests.

    Args:
        settings: How long requests are collected.
        database: Where they are, and which version serves.
        planner: Plans the removal of a group of them.
        journal: Remembers in storage what was begun.
    """

    def __init__(self, settings: Settings, database: Database, planner: RemovalPlanner, journal: Journal) -> None:
        policy = settings.policy
        self._collect = Batching(policy.batch_seconds, policy.batch_keys, policy.deadline_margin)
        self._ledger, self._progress, self._registry = database.ledger, database.progress, database.registry
        self._planner, self._journal = planner, journal
        self._alone: set[str] = set()  # requests that failed together: whose fault it was shows one by one
        self._seen: dict[str, float] = {}  # waiting request → when it was seen first, by a clock that is never set back

    def waiting(self, flying: Collection[str]) -> list[ForgetRequest]:
        """Return the requests that nobody works on.

        Args:
            flying: Those of rounds under way.
        """
        waiting = [
            request
            for request in self._ledger.requests((RequestState.RECEIVED, RequestState.PLANNED))
            if request.request_id not in flying
        ]
        self._seen = {r.request_id: self._seen.get(r.request_id, time.monotonic()) for r in waiting}
        return waiting

    def claim(
        self, token: int, waiting: Sequence[ForgetRequest], busy: set[int], pools: Pools
    ) -> Iterator[tuple[Round, Sequence[SubModelRecord]]]:
        """Yield rounds to begin, each when its requests are PLANNED, with the sub-models that serve.

        Args:
            token: Of the lease.
            waiting: From `waiting`.
            busy: Shards on which nothing else may start.
            pools: How many jobs run at once.
        """
        waiting = [request for request in waiting if self._known(token, request)]
        self._alone &= {request.request_id for request in waiting}
        if not waiting:
            return
        places = {name: set(shards) for name, shards in self._ledger.shards_of([r.request_id for r in waiting]).items()}
        named = {request.request_id: request for request in waiting}
        for together in claim({name: places[name] for name in named}, busy):
            group = [name for name in together if name in self._alone][:1] or together
            started = self._begin(token, [named[name] for name in group], {n: places[n] for n in group}, pools)
            if started is not None:
                yield started

    def fail(self, token: int, request_ids: Collection[str], reason: str) -> None:
        """Fail a request; several that failed together are tried again, each alone.

        Args:
            token: Of the lease.
            request_ids: Which.
            reason: What the ledger says of it.
        """
        if len(request_ids) > 1:
            self._alone.update(request_ids)
        else:
            self._progress.mark_failed(token, list(request_ids), reason)

    def _known(self, token: int, request: ForgetRequest) -> bool:
        """Return whether a request asks for a strategy that there is; one of another release's fails."""
        if request.strategy in choices():
            return True
        reason = f"unknown strategy {request.strategy!r}; known: {', '.join(choices())}; ask for the same again by one"
        self._progress.mark_failed(token, [request.request_id], reason)
        return False

    def _begin(
        self, token: int, group: Sequence[ForgetRequest], places: dict[str, set[int]], pools: Pools
    ) -> tuple[Round, Sequence[SubModelRecord]] | None:
        """Return a round to begin, if one is due; requests that can't be planned fail, and nobody else."""
        with apart("planning a removal", lambda error: self.fail(token, list(places), told(error))):
            return self._start(token, group, places, pools)
        return None

    def _start(
        self, token: int, group: Sequence[ForgetRequest], places: dict[str, set[int]], pools: Pools
    ) -> tuple[Round, Sequence[SubModelRecord]] | None:
        ids = list(places)
        strategy = strictest([r.strategy for r in group])
        exactly = asks_exact(strategy)  # asked for by name, it also repairs what an update did before
        version = self._registry.version()
        done = {sub.shard: sub.exact_upto if exactly else sub.removed_upto for sub in version.shards}
        upto = self._ledger.shards_of(ids)
        shards = {shard for needs in upto.values() for shard, seq in needs.items() if seq > done[shard]}
        if not shards:
            self._registry.satisfy(token, ids)
            self._journal.keep(ids)
            return None
        waited = self._waited(group)
        slack = min((w.slack for w in waited if w.slack is not None), default=None)
        begun = any(r.state is RequestState.PLANNED for r in group)  # before a restart: not to be collected again
        begun = begun or due(waited, 0.0, self._collect) is not None
        if not begun and slack is None:
            return None  # no estimate would make it due
        plan = self._planner.plan(shards, strategy, pools, slack)
        if not begun and due(waited, plan.makespan_seconds, self._collect) is None:
            return None
        started = Round(new_id("round"), places, {p.shard: p for p in plan.shards})
        if not self._progress.mark_planned(token, ids, started.round_id, version.version):
            return None
        self._journal.keep(ids)  # those that revoked nothing themselves: no job takes a tombstone of theirs
        return started, version.shards

    def _waited(self, group: Sequence[ForgetRequest]) -> list[Waiting]:
        now = time.time()
        return [
            Waiting(
                r.keys,
                max(now - r.received_at, time.monotonic() - self._seen[r.request_id]),
                None if r.deadline_at is None else r.deadline_at - now,
            )
            for r in group
        ]
