"""Audits of how well the system forgets: shadow models of some shards, measured against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from hybridmu.runtime.audit.audit_run import Audit, Watch
from hybridmu.runtime.audit.audit_targets import Wanted
from hybridmu.runtime.coordinator.planner_policy import approximate_of
from hybridmu.runtime.workers.executor import Executor, LocalExecutor
from hybridmu.system.arguments import AnyStrategy, Callback, Count, Share, checked
from hybridmu.system.session import Session


class ForgettingAudit:
    """Audits of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def audit(
        self,
        *,
        strategy: AnyStrategy = None,
        share: Share = 0.01,
        models: Count = 30,
        shards: Count = 2,
        announce: Annotated[Callable[[float, int], None] | None, Callback] = None,
        watch: Annotated[Watch | None, Callback] = None,
    ) -> dict[str, Any]:
        """Audit how a strategy forgets, on canaries; and what is served of rows that were revoked and not purged.

        Live rows of some shards play the part of forgotten ones in throw-away copies; neither ledger nor versions
        change. Interrupted, the same call goes on with the models that were finished.

        Args:
            strategy: As in `forget`; by default the update that the policy lets `auto` choose.
            share: Canaries over live rows of a shard.
            models: Shadow models of each kind and shard; eight are the fewest that can say anything.
            shards: How many shards at most; those that owe an exact repair first.
            announce: Called with (expected seconds, jobs at once) before the first job.
            watch: Called with (models done, in all, seconds left) whenever one is done.

        Returns:
            JSON-able report; `report.audit.page` makes HTML of it.

        Raises:
            RequestError: Fewer than three models, no shard, or a share that is none.
            StateError: No shard has rows to spare, or rows of the audited ones are revoked again and again meanwhile.
            StrategyUnavailableError: The strategy can't run here.
            ShardFailedError: A shadow model could not be made.
        """
        session = self._session
        session.refresh()
        planner = session.removal_planner()
        audit = Audit(planner, Wanted(strategy or approximate_of(session.settings)[0], share, models, shards))
        with self._workers() as executor:
            if announce:
                workers = executor.pools().updaters
                announce(audit.expected_seconds(workers), workers)
            return audit.run_audit(executor, watch)

    @contextmanager
    def _workers(self) -> Iterator[Executor]:
        """Yield where the jobs run: apart from a coordinator, whose lease is not taken."""
        session = self._session
        if session.executor == "local":
            yield LocalExecutor(session.settings)
        else:
            from hybridmu.cluster.audit_pool import audit_pool

            with audit_pool(session.settings) as executor:
                yield executor
