"""Which waiting requests are begun now, together with which others, and by which plan."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from hybridmu.config import Settings
from hybridmu.errors import StrategyUnavailableError
from hybridmu.planning.batching import Batching, Waiting, claim, due
from hybridmu.planning.planner import Pools
from hybridmu.runtime.removal import RemovalPlanner
from hybridmu.runtime.rounds import Round, new_id
from hybridmu.store.journal import Journal
from hybridmu.store.sql.ledger import Ledger
from hybridmu.store.sql.registry import Registry
from hybridmu.types import ForgetRequest, RequestState, StrategyChoice, SubModel

_STRICTEST: tuple[StrategyChoice, ...] = ("retrain", "rewind", "auto", "dpus-optimised", "dpus-newton", "dpus")


class Claimer:
    """Makes rounds of requests.

    Args:
        settings: How long requests are collected.
        ledger: Where they are.
        registry: Which version serves.
        planner: Plans the removal of a group of them.
        journal: Remembers in storage what was begun.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, registry: Registry, planner: RemovalPlanner, journal: Journal
    ) -> None:
        policy = settings.policy
        self._collect = Batching(policy.batch_seconds, policy.batch_keys, policy.deadline_margin)
        self._ledger, self._registry, self._planner, self._journal = ledger, registry, planner, journal
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
    ) -> Iterator[tuple[Round, Sequence[SubModel]]]:
        """Yield rounds to begin, each when its requests are PLANNED, with the sub-models that serve.

        Args:
            token: Of the lease.
            waiting: From `waiting`.
            busy: Shards on which nothing else may start.
            pools: How many jobs run at once.
        """
        if not waiting:
            return
        places = {name: set(shards) for name, shards in self._ledger.shards_of([r.request_id for r in waiting]).items()}
        named = {request.request_id: request for request in waiting}
        for group in claim({name: places[name] for name in named}, busy):
            started = self._start(token, [named[name] for name in group], {n: places[n] for n in group}, pools)
            if started is not None:
                yield started

    def _start(
        self, token: int, group: Sequence[ForgetRequest], places: dict[str, set[int]], pools: Pools
    ) -> tuple[Round, Sequence[SubModel]] | None:
        ids = list(places)
        strategy = next(choice for choice in _STRICTEST if any(r.strategy == choice for r in group))
        exactly = strategy == "retrain"  # asked for by name, it also repairs what an update did before
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
        try:
            plan = self._planner.plan(shards, strategy, pools, slack)
        except StrategyUnavailableError as error:
            self._ledger.mark_failed(token, ids, str(error))
            return None
        if not begun and due(waited, plan.makespan_seconds, self._collect) is None:
            return None
        started = Round(new_id("round"), places, {p.shard: p for p in plan.shards})
        if not self._ledger.mark_planned(token, ids, started.round_id, version.version):
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
