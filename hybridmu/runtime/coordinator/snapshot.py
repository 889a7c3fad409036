"""Snapshot: where the coordinator stands after a step, for those who wait, watch or print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snapshot:
    """Where the coordinator stands after a step.

    Attributes:
        version: What is served.
        jobs_total: Shard jobs of all rounds at work.
        jobs_done: How many of them came back.
        open_requests: Requests that are not served yet.
        evaluating: Whether the quality of a version is being measured, or is next.
        calibrating: Whether canaries are deleted, or may be next.
        canaries: Sets of canaries that are measured, and those to be measured in all, while it does so.
        paused: Whether requests are accepted and not begun.
        purging: Whether a purge is at work or due.
        ingestions: New data that is not in yet.
        repairing: Whether a shard owes an exact retrain that comes next, or again in a moment.
        blocked: Shards that owe one which failed again and again; it is tried once a minute.
        rows_read: Of the source tables, while a new system reads them: nothing else has begun then.
    """

    version: int | None
    jobs_total: int
    jobs_done: int
    open_requests: int
    evaluating: bool = False
    calibrating: bool = False
    canaries: tuple[int, int] = (0, 0)
    paused: bool = False
    purging: bool = False
    ingestions: int = 0
    repairing: bool = False
    blocked: tuple[int, ...] = ()
    rows_read: int = 0
