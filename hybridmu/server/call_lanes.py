"""Lanes of the HTTP interface: which calls wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from hybridmu.config import Settings
from hybridmu.server.worker_lanes import Lane
from hybridmu.system.system import System

_LONG = 16 * 1024  # bytes of a body: a thousand ids take some milliseconds, a hundred thousand some seconds


@dataclass(frozen=True)
class CallLanes:
    """The lanes, one for each kind of call.

    Attributes:
        reads: Calls that show something, the console's pages among them.
        health: Probes.
        plans: Plans of few keys.
        deletions: Deletion requests of few keys, and cancellations.
        long_plans: Plans of many keys.
        long_deletions: Deletion requests of many keys.
    """

    reads: Lane
    health: Lane
    plans: Lane
    deletions: Lane
    long_plans: Lane
    long_deletions: Lane

    def for_plan(self, body: bytes) -> Lane:
        """Return the lane of a plan with this body."""
        return self.long_plans if len(body) > _LONG else self.plans

    def for_deletion(self, body: bytes) -> Lane:
        """Return the lane of a deletion request with this body."""
        return self.long_deletions if len(body) > _LONG else self.deletions


def make_lanes(settings: Settings) -> CallLanes:
    """Return the lanes, each with its own systems; none of these starts anything that would have to be closed.

    Args:
        settings: The configuration.
    """
    api = settings.api

    def lane(name: str, workers: int, waiting: int = api.waiting) -> Lane:
        return Lane(name, [System(settings, "local") for _ in range(workers)], waiting)

    return CallLanes(
        reads=lane("read", api.workers),
        health=lane("health", 1, api.connections),  # a probe is never one too many
        plans=lane("plan", api.key_workers),
        deletions=lane("forget", api.key_workers),
        long_plans=lane("long-plan", 1),
        long_deletions=lane("long-forget", 1),
    )
