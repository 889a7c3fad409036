"""Maintenance of storage and ledger: checkpoints, upgrades, repair, restore, and decommissioning."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridmu.config.addresses import whole_path
from hybridmu.errors import RequestError, StateError
from hybridmu.kinds import FALLBACK
from hybridmu.planning import cost
from hybridmu.planning.upgrade_impact import UpgradePlan
from hybridmu.runtime.coordinator.checkpoint_upgrade import upgrade_plan
from hybridmu.runtime.linked.retirement import decommission
from hybridmu.runtime.purge.table_repair import mend
from hybridmu.runtime.purge.table_rewrite import rewrite_tables
from hybridmu.store.ownership import bind
from hybridmu.system.arguments import Caller, Flag, Name, Reason, Source, Versions, checked
from hybridmu.system.session import Session


class Maintenance:
    """Maintenance of one system's storage and ledger.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

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
        session = self._session
        session.check_bound()
        keeper = session.checkpoint_keeper()
        plan = keeper.plan()
        if apply and plan.evicted:
            with session.coordination.leased(
                "it keeps checkpoints.budget_bytes after every publish; stop it to do so by hand"
            ):
                plan = keeper.plan()
                keeper.apply(plan)
        fitted = cost.fit(session.measurements.costs())
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
        session = self._session
        session.check_bound()
        keeper = session.checkpoint_keeper()
        return upgrade_plan(keeper, session.measurements, versions or {})

    @checked
    def rewrite_tables(self) -> int:
        """Return how many tables of an earlier release were rewritten, so that values stand in their rows alone.

        Raises:
            StateError: Another coordinator is at work on this storage; it does so itself when it starts.
            StorageError: A table is damaged; the others are done.
        """
        session = self._session
        session.check_bound()
        with session.coordination.leased("it rewrites them when it starts: stop it and start it again") as beat:
            return rewrite_tables(session.lake, beat)

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
        session = self._session
        bind(session.storage, session.database.identity, session.settings, create=False)
        if holder := session.lease.holder():
            raise StateError("a coordinator is running on this storage", got=holder, remedy="stop it first")
        found = session.database.journal(session.storage).replay()
        return {**found, "unsettled": session.linked.settle()}

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
        session = self._session
        session.check_bound()
        if holder := session.lease.holder():
            raise StateError("a coordinator is running on this storage", got=holder, remedy="stop it first")
        return {"name": name, "left_out": mend(session.lake, session.guard, name, _file_here(copy))}

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
        session = self._session
        return decommission(session.settings, session.storage, session.database, reason, caller)


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
    raise RequestError("the copy does not exist", expected="a file on this machine", got=f"{source}: {got}")
