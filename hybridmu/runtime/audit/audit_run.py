"""Audit of a trained system: jobs that make shadow models, and their joint findings.

The ledger and the versions are only read. Every job learns the tombstones when it is handed over, as the coordinator's
jobs do. When a row of an audited shard is revoked meanwhile, what was measured there is thrown away and begun again
without it. Finished shadow models are kept in storage until the audit ends
(`store.storage.audit_scores`), so it can be interrupted.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hybridmu.core.audit import audit_report, shadow_models
from hybridmu.errors import RequestError, ShardFailedError, StateError, StorageError
from hybridmu.kinds import FALLBACK
from hybridmu.planning import cost
from hybridmu.runtime.audit import audit_targets
from hybridmu.runtime.audit.audit_targets import Target, Wanted
from hybridmu.runtime.coordinator.dispatcher import files_of
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.workers.executor import Executor
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.types import AuditJob, AuditOutcome, KeySet, RequestState, ShardFailure

Watch = Callable[[int, int, float], None]  # models done, in all, seconds left

_POLL_SECONDS = 0.2
_RESTARTS = 3


@dataclass
class _Progress:
    done: dict[int, dict[int, shadow_models.Shadow]]  # shard → number → its models
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    flying: dict[str, tuple[Target, AuditJob, int]] = field(default_factory=dict)  # job → shard, job, attempt
    seconds: list[float] = field(default_factory=list)


class Audit:
    """One audit of a trained system.

    Args:
        planner: Knows lake, ledger, registry, costs and calibration.
        wanted: What is audited.

    Raises:
        RequestError: Fewer than three models, no shard, or a share that is none.
        StateError: No shard has rows to spare.
        StrategyUnavailableError: The strategy can't run here.
    """

    def __init__(self, planner: RemovalPlanner, wanted: Wanted) -> None:
        if wanted.models < 3 or wanted.shards < 1 or not 0 < wanted.share < 1:
            raise RequestError(
                "there is nothing to audit",
                expected="at least 3 models, 1 shard, and a share above 0 and below 1",
                got=f"{wanted.models} models, {wanted.shards} shards, share {wanted.share:g}",
            )
        self.site, self.wanted = planner.site, wanted
        self._planner, self._kept = planner, Audits(planner.site.storage)
        self.version = planner.registry.version()
        self.targets = {found.sub.shard: found for found in audit_targets.choose(planner, self.version, wanted)}

    def expected_seconds(self, workers: int) -> float:
        """Return how long it takes, by the cost model, without what an interrupted run finished already.

        Args:
            workers: Jobs that run at once.
        """
        known = cost.fit(self._planner.measurements.costs())
        jobs = []
        for shard, found in self.targets.items():
            seconds = known.estimate(FALLBACK, found.visits, 3 * found.slices).seconds
            left = self.wanted.models - len(self._kept.kept(shard, found.name))
            jobs += [seconds + found.plan.estimated_seconds] * left
        return max(cost.schedule(jobs, workers), default=0.0)

    # ------------------------------------------------------------------ doing it

    def run_audit(self, executor: Executor, watch: Watch | None = None) -> dict[str, Any]:
        """Make all shadow models and sum them up; what is kept of them in storage is deleted at the end.

        Args:
            executor: Where jobs run.
            watch: Called with (models done, in all, seconds left) whenever one is done.

        Returns:
            JSON-able report: `figures`, `telling`, `verdict`, `served`, `shards` and what was asked.

        Raises:
            StateError: Rows of the audited shards were revoked again and again meanwhile.
            ShardFailedError: A shadow model could not be made.
        """
        started, restarts = time.perf_counter(), 0
        progress = _Progress({shard: {} for shard in self.targets})
        for shard in self.targets:
            self._begin(progress, shard)
        resumed = sum(map(len, progress.done.values()))
        limit = executor.pools().updaters
        while True:
            for shard in self._stale():
                restarts += 1
                self._restart(progress, shard, restarts)
            if not progress.waiting and not progress.flying:
                break
            while progress.waiting and len(progress.flying) < limit:
                self._submit(progress, executor, *progress.waiting.popleft())
            for result in executor.poll(_POLL_SECONDS):
                self._receive(progress, executor, result)
                if watch:
                    watch(*self._standing(progress, limit))
        report = self._report([progress.done[shard] for shard in self.targets])
        for shard, target in self.targets.items():
            self._kept.drop(shard, only=target.name)
        return {**report, "seconds": time.perf_counter() - started, "resumed": resumed, "restarts": restarts}

    def _begin(self, progress: _Progress, shard: int) -> None:
        """Take what an earlier run finished, and queue the rest; scores of rows that are no more live are deleted."""
        target = self.targets[shard]
        self._kept.drop(shard, but=target.prefix)
        kept = self._kept.kept(shard, target.name)
        numbers = range(self.wanted.models)
        progress.done[shard] = {n: shadow_models.Shadow.from_json(kept[n]) for n in numbers if n in kept}
        progress.waiting.extend((shard, n) for n in numbers if n not in kept)

    def _stale(self) -> list[int]:
        """Return the audited shards of which a row was revoked since."""
        now = self._planner.ledger.tombstones(self.targets)
        return [
            shard for shard, target in self.targets.items() if not KeySet.of(now.get(shard, [])) <= target.tombstones
        ]

    def _restart(self, progress: _Progress, shard: int, restarts: int) -> None:
        if restarts > _RESTARTS:
            raise StateError(
                "rows of the audited shards are revoked faster than the audit ends",
                got=f"{restarts} new deletions in them meanwhile",
                remedy="audit at a quieter time, or ask for fewer models or shards",
            )
        sub = next(sub for sub in self._planner.registry.version().shards if sub.shard == shard)
        found = audit_targets.target(self._planner, sub, self.wanted) if sub.blob else None
        if found is None:
            raise StateError(f"the rows of shard {shard} were revoked meanwhile", remedy="run the audit again")
        self.targets[shard] = found
        progress.waiting = deque(entry for entry in progress.waiting if entry[0] != shard)
        self._begin(progress, shard)

    def _submit(self, progress: _Progress, executor: Executor, shard: int, number: int, attempt: int = 1) -> None:
        target = self.targets[shard]
        sub = target.sub
        job = AuditJob(
            job_id=uuid.uuid4().hex,
            generations=sub.generations,
            seals=self.site.lake.recorded(files_of(self.site.lake, shard)),
            shard=shard,
            strategy=target.plan.strategy,
            number=number,
            canaries=target.canaries,
            tombstones=target.tombstones,
            watched=target.watched,
            served_blob=sub.blob,
            before_blob=sub.checkpoints[-1].blob if sub.checkpoints else None,
            alpha=target.plan.alpha,
        )
        progress.flying[job.job_id] = (target, job, attempt)
        executor.submit(job)

    def _receive(self, progress: _Progress, executor: Executor, result: object) -> None:
        assert isinstance(result, (AuditOutcome, ShardFailure))
        target, job, attempt = progress.flying.pop(result.job_id)
        if target is not self.targets[job.shard] or job.shard in self._stale():
            return  # it saw a row that is revoked now
        if isinstance(result, AuditOutcome):
            progress.done[job.shard][job.number] = shadow_models.Shadow.from_json(result.document)
            progress.seconds.append(result.seconds)
            with suppress(StorageError, FileNotFoundError):  # an audit that can't be resumed is an audit all the same
                self._kept.keep(job.shard, target.name, job.number, result.document)
            if job.shard in self._stale():  # looked at again: a purge may have come before the file
                self._kept.drop(job.shard, only=target.name)
        elif result.retryable and attempt < self.site.settings.policy.max_attempts:
            self._submit(progress, executor, job.shard, job.number, attempt + 1)
        else:
            raise ShardFailedError(f"shadow models of shard {job.shard} could not be made", got=result.error)

    def _standing(self, progress: _Progress, workers: int) -> tuple[int, int, float]:
        done, total = sum(map(len, progress.done.values())), self.wanted.models * len(self.targets)
        left = (total - done) * float(np.mean(progress.seconds or [0.0])) / min(workers, max(1, total - done))
        return done, total, left

    # ------------------------------------------------------------------ what it says

    def _report(self, done: Sequence[dict[int, shadow_models.Shadow]]) -> dict[str, Any]:
        shards = [[models[number] for number in sorted(models)] for models in done]
        found = audit_report.findings(shards)
        return {
            "version": self.version.version,
            **asdict(self.wanted),
            "shards": [self._described(target) for target in self.targets.values()],
            "shards_in_all": len(self.version.shards),
            "figure": self.site.judgement.figure,
            "telling": found.telling,
            "verdict": found.verdict,
            "left": found.left,
            "figures": asdict(found),
            "served": [self._served(target, made) for target, made in zip(self.targets.values(), shards, strict=True)],
            "purged_requests": len(self._planner.ledger.requests([RequestState.PURGED])),
        }

    def _described(self, target: Target) -> dict[str, Any]:
        plan = target.plan
        return {
            "shard": target.sub.shard,
            "rows": target.rows,
            "canaries": len(target.canaries),
            "strategy": plan.strategy,
            "alpha": plan.alpha,
            "reasons": list(plan.reasons),
        }

    def _served(self, target: Target, shadows: Sequence[shadow_models.Shadow]) -> dict[str, Any]:
        found = audit_report.served(shadows, self.site.judgement.sureness)
        base = {"shard": target.sub.shard, "exact": target.sub.exact, "keys": len(target.watched)}
        return {**base, "found": None if found is None else asdict(found)}
