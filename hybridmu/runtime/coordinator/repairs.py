"""Repairs: exact retrains that no request asked for, after an update and where storage lost a shard's weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from hybridmu.faults import reach
from hybridmu.kinds import FALLBACK
from hybridmu.planning.repair import Debt, repair_due
from hybridmu.runtime.coordinator.first_training import training_plan
from hybridmu.runtime.coordinator.integrity import Healer
from hybridmu.runtime.coordinator.occupied_shards import OccupiedShards
from hybridmu.runtime.coordinator.open_rounds import OpenRounds
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.coordinator.retry_times import RetryTimes
from hybridmu.runtime.coordinator.rounds import Round, new_id
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.executor import Executor
from hybridmu.runtime.workers.isolation import Errands, apart
from hybridmu.store.ledger.registry import Registry


class Repairs:
    """Begins a round of its own for every shard that is to be retrained.

    Args:
        site: Lake, recipes and settings.
        registry: Knows which shards owe an exact retrain.
        planner: Estimates how long it takes.
        executor: Knows how many jobs run at once.
        healer: Knows which shards storage damaged.
        rounds: Where repairs are begun.
        occupied: Shards on which none may start.
        retries: When a shard is tried again.
        errands: Leaves what fails alone for a while.
    """

    def __init__(
        self,
        site: Site,
        registry: Registry,
        planner: RemovalPlanner,
        executor: Executor,
        healer: Healer,
        rounds: OpenRounds,
        occupied: OccupiedShards,
        retries: RetryTimes,
        errands: Errands,
    ) -> None:
        self._site, self._registry, self._planner, self._executor = site, registry, planner, executor
        self._healer, self._rounds, self._occupied = healer, rounds, occupied
        self._retries, self._errands = retries, errands
        self._spare, self._patient = math.inf, False

    @property
    def spare_seconds(self) -> float:
        """Return the seconds until a repair has to start to meet its deadline, by the last `repair`."""
        return self._spare

    def repair(self, token: int, idle: bool, patient: bool = False) -> None:
        """Retrain exactly what updates changed: when nothing waits, or when a deadline or the budget asks for it.

        Args:
            token: The coordinator's fencing token.
            idle: Whether nothing waits.
            patient: Whether whatever has no near deadline is left for a later step.
        """
        self._patient = patient
        self._spare = math.inf
        busy = self._occupied.busy() | self._retries.resting()
        owing = {shard: deadline for shard, deadline in self._registry.debts().items() if shard not in busy}
        if not owing:
            return
        failed: list[Exception] = []
        with apart("planning repairs", failed.append):
            self._begin(token, owing, idle)
        if failed:  # one of them can't be planned: which one shows alone
            busy = self._occupied.busy()
            for shard in [shard for shard in owing if shard not in busy]:
                with apart("a repair", partial(self._put_off, shard)):
                    self._begin(token, {shard: owing[shard]}, idle)

    def heal(self, token: int, idle: bool) -> None:
        """Retrain shards whose weights storage lost; the same rows give the same bits.

        Args:
            token: The coordinator's fencing token.
            idle: Whether there is time to read files.
        """
        due: set[int] = set()
        if self._errands.due("healing"):
            with self._errands.apart("healing"):
                due = self._healer.due(self._occupied.busy() | self._retries.resting(), idle)
        for shard in sorted(due):
            with apart("healing", partial(self._put_off, shard)):
                plan = training_plan(self._site, shard)
                plan = replace(plan, rule="heal", reasons=("storage lost or changed its weights",))
                reach("heal.launch")
                started = Round(new_id("heal"), {}, {shard: plan}, mends=True)
                self._rounds.launch(token, started, self._registry.version().shards)

    def _begin(self, token: int, owing: Mapping[int, float | None], idle: bool) -> None:
        """Begin those repairs that are due, of shards with their deadlines."""
        plan = self._planner.plan(owing, FALLBACK, self._executor.pools(), None)
        now, version = time.time(), self._registry.version()
        spent = {sub.shard: sub.error_spent for sub in version.shards}
        for shard_plan in plan.shards:
            shard, deadline = shard_plan.shard, owing[shard_plan.shard]
            # The last of them ends after the makespan, so none may start later than that.
            debt = Debt(shard, spent[shard], None if deadline is None else deadline - now, plan.makespan_seconds)
            reason = self._due(debt, idle)
            if reason is None:
                continue
            reasons = ("an approximate removal owes an exact one", reason)
            repaired = {shard: replace(shard_plan, rule="repair", reasons=reasons)}
            reach("repair.launch")
            self._rounds.launch(token, Round(new_id("repair"), {}, repaired), version.shards)

    def _put_off(self, shard: int, _: Exception) -> None:
        self._retries.put_off([shard])

    def _due(self, debt: Debt, idle: bool) -> str | None:
        """Return why a repair begins now, or None."""
        policy = self._site.settings.policy
        if debt.slack is not None:
            self._spare = min(self._spare, debt.slack - policy.deadline_margin * debt.estimated_seconds)
        budget = math.inf if self._patient else policy.quality_budget
        return repair_due(debt, policy.repair, idle and not self._patient, budget, policy.deadline_margin)
