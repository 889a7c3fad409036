"""Trainings and deletions of the demo, each with what it took, and the proof by a fresh process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybridmu.demo.screen import Phases
from hybridmu.runtime.audit.verification import accuracy_of, test_rows
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.system.system import System
from hybridmu.types import KeySet


def train(system: System, bar: Phases, model: str) -> dict[str, Any]:
    """Train a system, and tell what that takes.

    Args:
        system: The system.
        bar: The demo's bar.
        model: What the demo calls it.

    Returns:
        Rows, accuracy, and the seconds of reading and encoding and of the training itself, on one worker: what starting
        from scratch takes, without the start of any process.
    """
    bar.of(model)
    bar.begin("reading and encoding the reviews")
    read = started = time.perf_counter()

    def watch(snapshot: Snapshot) -> None:
        nonlocal read
        if snapshot.rows_read:
            read = time.perf_counter()
            bar.count(snapshot.rows_read)
        elif snapshot.jobs_total:
            bar.begin("training")
            bar.count(snapshot.jobs_done, snapshot.jobs_total)

    found = system.train(watch)
    training = sum(cost.seconds for cost in system.measurements.costs())
    return {
        "rows": found["rows"],
        "shards": found["shards"],
        "accuracy": accuracy(system),
        "reading_seconds": read - started,
        "training_seconds": training,
        "scratch_seconds": read - started + training,
    }


def forget(
    system: System,
    bar: Phases,
    name: str,
    ids: Sequence[object],
    deadline_seconds: float | None = None,
    strategy: str = "auto",
) -> dict[str, Any]:
    """Return what became of one deletion.

    Args:
        system: The system.
        bar: The demo's bar.
        name: What to call it.
        ids: Rows.
        deadline_seconds: Until when it must be exact and purged.
        strategy: `auto`, or the one to be shown.
    """
    bar.begin(f"forgetting {name}")
    before = accuracy(system)
    found = system.forget(
        ids=ids, deadline_seconds=deadline_seconds, strategy=strategy, wait=True, watch=bar.watch_jobs
    )
    ways = Counter(entry["strategy"] for entry in found["shards"])
    return {
        "name": name,
        "request_id": found["request_id"],
        "rows": len(ids),
        "strategies": ", ".join(f"{count} {way}" for way, count in sorted(ways.items())),
        "version_before": found["version_before"],
        "version_after": found["version_after"],
        "seconds_to_applied": found["seconds_to_applied"],
        "seconds_to_served": found["seconds_to_served"],
        "measured_seconds": sum(entry["measured_seconds"] for entry in found["shards"]),
        "accuracy_before": before,
        "accuracy_after": accuracy(system),
        "shards": found["shards"],
    }


def prove(system: System, bar: Phases, name: str) -> dict[str, Any]:
    """Return what a training from scratch in fresh processes says of all shards.

    Args:
        system: The system.
        bar: The demo's bar.
        name: After what.
    """
    bar.begin(f"proving in a fresh process, after {name}")
    proof = system.verify(watch=bar.count)
    gaps = [entry["forget_loss_gap"] for entry in proof["shards"] if entry.get("forget_loss_gap") is not None]
    return {
        "shards": len(proof["shards"]),
        "exact_shards": proof["exact_shards"],
        "exact_claims_hold": proof["exact_claims_hold"],
        "bitwise_equal": proof["bitwise_equal"],
        "gaps": [min(gaps), max(gaps)] if gaps else None,
        "accuracy": proof["accuracy"],
        "oracle_accuracy": proof["oracle_accuracy"],
        "oracle_seconds": proof["oracle_seconds"],
    }


def accuracy(system: System) -> float:
    """Return the share of live test rows that the served version answers right."""
    gone = {shard: KeySet.of(stones) for shard, stones in system.ledger.tombstones().items()}
    return accuracy_of(system.site, system.registry.version().shards, test_rows(system.site, gone)) or 0.0
