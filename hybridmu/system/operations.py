"""Operations: pause, legal holds, storage, restore, and the end of a system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridmu.config.addresses import whole_path
from hybridmu.errors import (
    RequestError,
    StateError,
)
from hybridmu.kinds import FALLBACK
from hybridmu.planning import cost
from hybridmu.planning.upgrade_impact import UpgradePlan
from hybridmu.runtime.coordinator import coordinator
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.coordinator.upgrade import upgrade_plan
from hybridmu.runtime.linked.retirement import decommission
from hybridmu.runtime.purge.table_repair import mend
from hybridmu.runtime.purge.table_rewrite import rewrite_tables
from hybridmu.store.ledger.health import Vitals
from hybridmu.store.ownership import bind
from hybridmu.system.arguments import AnyName, Caller, Flag, Name, Number, Reason, Source, Versions, checked
from hybridmu.system.session import Opened


class Operating(Opened):
    """The operator's verbs."""

    @checked
    def pause(self, reason: Reason, caller: Caller = "") -> dict[str, Any]:
        """Return the pause: requests are accepted from now on, but not claimed; what runs is finished.

        An exact repair whose deadline comes near is made all the same.

        Args:
            reason: Why.
            caller: Who asks for it.
        """
        self._check_bound()
        return asdict(self.controls.pause(reason, caller))

    @checked
    def resume(self) -> None:
        """Claim requests again."""
        self._check_bound()
        self.controls.resume()

    @checked
    def hold(self, reason: Reason, request_id: AnyName = None, caller: Caller = "") -> dict[str, Any]:
        """Return a new legal hold: what it covers is forgotten by the model, but not purged until the hold is lifted.

        Args:
            reason: Why.
            request_id: What it covers; None: every request.
            caller: Who places it.

        Raises:
            StateError: There is no such request, or it is purged already.
        """
        self._check_bound()
        return asdict(self.controls.hold(request_id, reason, caller))

    @checked
    def lift(self, number: Number) -> None:
        """End a legal hold.

        Args:
            number: Of the hold.

        Raises:
            StateError: There is no such hold.
        """
        self._check_bound()
        self.controls.lift(number)

    @checked
    def holds(self) -> list[dict[str, Any]]:
        """Return the legal holds that are not lifted."""
        self._check_bound()
        return [asdict(hold) for hold in self.controls.holds()]

    @checked
    def vitals(self) -> Vitals:
        """Return how the system is doing, in the numbers that metrics show."""
        return self.database.vitals()

    @checked
    def status(self) -> dict[str, Any]:
        """Return where the system stands: version, shards and what they owe, canaries, requests, holds, replicas."""
        self._check_bound()
        version, past = self.registry.version(), self.site.lake.manifest.ancestry
        return {
            "version": version.version,
            "voters": sum(sub.blob is not None for sub in version.shards),
            "shards": [
                {
                    "shard": sub.shard,
                    "exact": sub.exact,
                    "empty": sub.blob is None,
                    "owes_exact_repair": sub.exact_upto < sub.removed_upto,
                    "error_spent": sub.error_spent,
                }
                for sub in version.shards
            ],
            "debts": [
                {"shard": shard, "deadline_at": deadline} for shard, deadline in sorted(self.registry.debts().items())
            ],
            "calibration": self._calibration(),
            "pause": asdict(paused) if (paused := self.controls.paused()) else None,
            "holds": self.holds(),
            "requests": {str(state): count for state, count in self.pages.totals().items()},
            "last_requests": [
                {**asdict(request), "state": str(request.state)} for request in self.pages.page(limit=10).requests[::-1]
            ],
            "replicas": self.replicas.live(),
            "coordinator": self.lease.holder(),
            "models": [link.name for link in self.linked.links.live()],
            "undelivered": len(self.linked.forwards.waiting(begun=False)),
            "predecessor": None if past is None else {"name": past.name, "version": past.version, "root": past.root},
        }

    def _calibration(self) -> dict[str, Any]:
        """Return what canaries say of each update, which cells wait for canaries, and the budget for new ones."""
        found = Canaries(self.site, self.ledger, self.measurements, self.registry).calibration()
        work, spent = self.measurements.effort()
        return {
            "buckets": [asdict(bucket) for bucket in found.buckets],
            "waiting": [asdict(cell) for cell in found.waiting],
            "noise": asdict(found.noise) if found.noise else None,
            "seconds_spent_again": spent,
            "seconds_allowed_again": self.settings.policy.recalibration_share * work,
        }

    @checked
    def checkpoints(self, *, apply: Flag = False) -> dict[str, Any]:
        """Return which checkpoints go to keep the budget, and what the next deletion costs before and after.

        Args:
            apply: Delete them; without it nothing is changed. A running coordinator does so after every publish.

        Returns:
            JSON-able plan, with seconds by the cost model and the plan in sentences.

        Raises:
            StateError: Another coordinator is at work on this storage.
        """
        self._check_bound()
        keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        plan = keeper.plan()
        if apply and plan.evicted:
            with self._leased("it keeps checkpoints.budget_bytes after every publish; stop it to do so by hand"):
                plan = keeper.plan()
                keeper.apply(plan)
        fitted = cost.fit(self.measurements.costs())
        before = fitted.estimate(FALLBACK, round(plan.visits_before), round(plan.files_before))
        after = fitted.estimate(FALLBACK, round(plan.visits_after), round(plan.files_after))
        return {
            **asdict(plan),
            "fits": plan.fits,
            "seconds_before": before.seconds,
            "seconds_after": after.seconds,
            "applied": apply,
            "explanation": plan.explain(),
        }

    @checked
    def upgrade(self, versions: Versions = None) -> UpgradePlan:
        """Show what other libraries, or those of this very process, cost in lost checkpoints; changes nothing.

        Args:
            versions: Package → version after the upgrade. Left out: storage is compared with what is installed here,
                so that the new environment can be asked.

        Returns:
            The plan, with a sentence for every figure.
        """
        self._check_bound()
        keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        return upgrade_plan(keeper, self.measurements, versions or {})

    @checked
    def rewrite_tables(self) -> int:
        """Return how many tables of an earlier release were rewritten, so that values stand in their rows alone.

        Raises:
            StateError: Another coordinator is at work on this storage; it does so itself when it starts.
            StorageError: A table is damaged; the others are done.
        """
        self._check_bound()
        with self._leased("it rewrites them when it starts: stop it and start it again") as beat:
            return rewrite_tables(self.site.lake, beat)

    @contextmanager
    def _leased(self, remedy: str) -> Iterator[Callable[[], None]]:
        """Hold the coordinator's lease, and yield what renews it.

        Args:
            remedy: What to do where another coordinator holds it.

        Yields:
            To be called again and again.

        Raises:
            StateError: Another coordinator is at work.
        """
        self.close()  # a coordinator of our own has no job at work now
        token = self.lease.acquire(self._holder(), coordinator.LEASE_SECONDS)
        if token is None:
            raise StateError(
                "another coordinator is at work on this storage", got=str(self.lease.holder()), remedy=remedy
            )
        renewed = time.monotonic()

        def beat() -> None:
            nonlocal renewed
            if time.monotonic() - renewed > coordinator.LEASE_SECONDS / 5:
                self.lease.heartbeat(token, coordinator.LEASE_SECONDS)
                renewed = time.monotonic()

        try:
            yield beat
        finally:
            self.lease.release(token)

    @checked
    def replay(self) -> dict[str, Any]:
        """Give a ledger that was restored from a backup what storage has acted on since, and linked models know.

        Returns:
            How many requests and tombstones came back, and the version that is served; 0 and 0 when nothing lacked.
            `unsettled` names linked models that could not be asked: link them again.

        Raises:
            StateError: A coordinator is at work, storage lacks certificates, or something in it is not of this system;
                the ledger is as it was.
        """
        bind(self.site.storage, self.database.identity, self.settings, create=False)
        if holder := self.lease.holder():
            raise StateError("a coordinator is at work", got=holder, remedy="stop it first")
        found = self.database.journal(self.site.storage).replay()
        return {**found, "unsettled": self.linked.settle()}

    @checked
    def mend(self, name: Name, copy: Source) -> dict[str, Any]:
        """Make a damaged table or index file again from a copy, which may be older than purges.

        Args:
            name: Of the file in storage, as the error says it: `lake/g0000/train/shard-00003.parquet`.
            copy: A copy of it, on this machine.

        Returns:
            `left_out`: how many rows of the copy were purged since.

        Raises:
            RequestError: There is no such copy.
            StateError: A coordinator is at work.
            StorageError: What is left of the copy is not what was recorded; nothing was changed.
        """
        self._check_bound()
        if holder := self.lease.holder():
            raise StateError("a coordinator is at work", got=holder, remedy="stop it first")
        return {"name": name, "left_out": mend(self.site.lake, self.guard, name, _file_here(copy))}

    @checked
    def decommission(self, reason: Reason, caller: Caller = "") -> dict[str, Any]:
        """Forget everything: stop serving, empty storage and the ledger, and look; certificates and the guard stay.

        Args:
            reason: Why, for the log.
            caller: Who.

        Returns:
            How many files went and what stays. Repeating it after a crash finishes what was begun.

        Raises:
            StateError: Another coordinator is at work, a legal hold is in force, or a linked model has not got all
                requests yet.
        """
        return decommission(self.settings, self.site.storage, self.database, reason, caller)


def _file_here(source: str | Path) -> Path:
    """Return the path of a file of this machine.

    Raises:
        RequestError: There is none, or it can't be seen.
    """
    try:
        if (path := whole_path(str(source))).is_file():
            return path
        got = "no file"
    except (ValueError, OSError) as error:
        got = str(error)
    raise RequestError("there is no such copy", expected="a file on this machine", got=f"{source}: {got}")
