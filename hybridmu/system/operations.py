"""Operator's controls: pause, legal holds and status."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hybridmu.store.ledger.health import Vitals
from hybridmu.system.arguments import AnyName, Caller, Flag, Number, Reason, checked
from hybridmu.system.quality_reports import quality_json
from hybridmu.system.session import Session


class Operations:
    """Controls and status of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def pause(self, reason: Reason, caller: Caller = "") -> dict[str, Any]:
        """Return the pause: requests are accepted from now on, but not claimed; what runs is finished.

        An exact repair whose deadline comes near is made all the same.

        Args:
            reason: Why.
            caller: Who asks for it.
        """
        session = self._session
        session.check_bound()
        return asdict(session.controls.pause(reason, caller))

    @checked
    def resume(self) -> None:
        """Claim requests again."""
        session = self._session
        session.check_bound()
        session.controls.resume()

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
        session = self._session
        session.check_bound()
        return asdict(session.controls.hold(request_id, reason, caller))

    @checked
    def lift(self, number: Number) -> None:
        """End a legal hold.

        Args:
            number: Of the hold.

        Raises:
            StateError: There is no such hold.
        """
        session = self._session
        session.check_bound()
        session.controls.lift(number)

    @checked
    def holds(self) -> list[dict[str, Any]]:
        """Return the legal holds that are not lifted."""
        session = self._session
        session.check_bound()
        return [asdict(hold) for hold in session.controls.holds()]

    @checked
    def vitals(self) -> Vitals:
        """Return how the system is doing, in the numbers that metrics show."""
        return self._session.database.vitals()

    @checked
    def status(self, *, calibration: Flag = True) -> dict[str, Any]:
        """Return where the system stands: version, shards and what they owe, canaries, requests, holds, replicas.

        Args:
            calibration: With `calibration`, what canaries say of each update; that takes the updates' code, and so
                PyTorch, which the rest does without.
        """
        session = self._session
        session.check_bound()
        version, past = session.registry.version(), session.lake.manifest.ancestry
        measured = session.database.evaluations.newest()
        return {
            "version": version.version,
            "voters": sum(sub.blob is not None for sub in version.shards),
            "rows": {split: sum(map(sum, shards)) for split, shards in session.lake.manifest.rows.items()},
            "quality": None if measured is None else quality_json(measured),
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
                {"shard": shard, "deadline_at": deadline}
                for shard, deadline in sorted(session.registry.debts().items())
            ],
            **({"calibration": self._calibration()} if calibration else {}),
            "pause": asdict(paused) if (paused := session.controls.paused()) else None,
            "holds": self.holds(),
            "approvals": [asdict(one) for one in session.database.approvals.waiting()],
            "requests": {str(state): count for state, count in session.pages.totals().items()},
            "last_requests": [
                {**asdict(request), "state": str(request.state)}
                for request in session.pages.page(limit=10).requests[::-1]
            ],
            "replicas": session.replicas.live(),
            "coordinator": session.lease.holder(),
            "models": [link.name for link in session.database.links.live()],
            "undelivered": len(session.database.forwards.waiting(begun=False)),
            "webhooks": [
                {"receiver": counts.name, "waiting": counts.waiting, "dead": counts.dead}
                for counts in session.database.webhooks.counts()
            ],
            "predecessor": None if past is None else {"name": past.name, "version": past.version, "root": past.root},
        }

    def _calibration(self) -> dict[str, Any]:
        """Return what canaries say of each update, which cells wait for canaries, and the budget for new ones."""
        session = self._session
        found = session.canary_curves().calibration()
        work, spent = session.measurements.effort()
        return {
            "buckets": [asdict(bucket) for bucket in found.buckets],
            "waiting": [asdict(cell) for cell in found.waiting],
            "needless": found.needless,
            "noise": asdict(found.noise) if found.noise else None,
            "seconds_spent_again": spent,
            "seconds_allowed_again": session.settings.policy.recalibration_share * work,
        }
