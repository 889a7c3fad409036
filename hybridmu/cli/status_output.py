"""Status of a system in words, for people at a terminal: what matters first, lengths of time as one says them."""

from __future__ import annotations

import time
from typing import Any

from hybridmu.cli.durations import due
from hybridmu.cli.output import tell
from hybridmu.cli.quality_output import quality_line
from hybridmu.cli.request_output import hold_text


def print_status(result: dict[str, Any], next_deadline: float | None) -> None:
    """Print where a system stands.

    Args:
        result: As `System.status` returns it, with what canaries measured or without.
        next_deadline: Seconds until the next deadline of a request; None without one.
    """
    rows = ", ".join(f"{count:,} {split}" for split, count in result["rows"].items() if count)
    tell(f"version {result['version']}, {result['voters']} voter(s), rows read: {rows}")
    measured = result["quality"]
    older = f" (of version {measured['version']})" if measured and measured["version"] != result["version"] else ""
    tell(f"quality: {quality_line(measured)}{older}")
    debts = ", ".join(_debt(debt) for debt in result["debts"])
    tell(f"shards that owe an exact repair: {debts or 'none'}")
    tell(f"next deadline: {'none' if next_deadline is None else due(next_deadline)}")
    if result["pause"]:
        tell(f"PAUSED by {result['pause']['caller']}: {result['pause']['reason']}")
    tell("requests: " + ", ".join(f"{state} {count}" for state, count in result["requests"].items()))
    for one in result["approvals"]:
        left = "" if one["deadline_at"] is None else f", {due(one['deadline_at'] - time.time())}"
        tell(
            f"waits for an approval: {one['request_id']} of {one['caller'] or 'nobody named'}, "
            f"{one['rows']} row(s){left} (`hybridmu requests approve`)"
        )
    for placed in result["holds"]:
        tell(hold_text(placed))
    if result["models"]:
        tell(f"linked with: {', '.join(result['models'])}; {result['undelivered']} request(s) not passed on yet")
    for receiver in result["webhooks"]:
        given_up = f", {receiver['dead']} GIVEN UP (`hybridmu webhooks list`)" if receiver["dead"] else ""
        tell(f"webhooks to {receiver['receiver']}: {receiver['waiting']} event(s) wait{given_up}")
    if past := result["predecessor"]:
        tell(f"its first rows are those of model {past['name']}, version {past['version']}")
    replicas = ", ".join(f"{name} with version {version}" for name, version in result["replicas"].items())
    tell(f"replicas: {replicas or 'none'}; coordinator: {result['coordinator'] or 'none'}")
    if "calibration" in result:
        _print_calibration(result["calibration"])


def _debt(debt: dict[str, Any]) -> str:
    deadline = debt["deadline_at"]
    return f"{debt['shard']} ({'no deadline' if deadline is None else due(deadline - time.time())})"


def _print_calibration(found: dict[str, Any]) -> None:
    if not found["buckets"] and not found["waiting"]:
        tell("canaries: none were deleted yet, and none are waited for")
    for bucket in found["buckets"]:
        low, high = bucket["alpha_range"]
        tell(
            f"{bucket['strategy']} from slice {bucket['first_slice']} at {bucket['share']:.1%} of rows: "
            f"alpha {bucket['alpha']:.3g} [{low:.3g}, {high:.3g}], error {bucket['error']:.3f} + spread "
            f"{bucket['spread']:.3f}, by {bucket['canaries']} canaries on {bucket['shards']} shard(s)"
        )
    if noise := found["noise"]:
        tell(
            f"two exact trainings in another order of the rows differ by {noise['common']:.3f} on many rows, and "
            f"besides by {noise['single']:.3f} on a single one (root mean squares of {noise['pairs']} pairs)"
        )
    if cells := [f"slice {cell['first_slice']} at {cell['share']:.1%}" for cell in found["waiting"]]:
        tell(
            f"waiting for canaries: {', '.join(cells)}; {found['seconds_spent_again']:.0f} of "
            f"{found['seconds_allowed_again']:.0f} s are spent on deleting canaries again"
        )
