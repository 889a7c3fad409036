"""Deletion requests and legal holds in words, for people at a terminal."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from hybridmu.cli.durations import due, length
from hybridmu.cli.next_steps import after_deletion
from hybridmu.cli.output import print_table, tell
from hybridmu.cli.quality_output import change_line
from hybridmu.types import ForwardState, RequestState


def print_outcome(report: dict[str, Any], config: Path) -> None:
    """Print what became of a request: one line, its shards, and what comes next.

    Args:
        report: As `System.report` returns it.
        config: Of the system.
    """
    took = report["seconds_to_applied"]
    tell(
        f"{report['request_id']} {report['state']}: {report['keys']} key(s)"
        + (f", version {report['version_before']} -> {report['version_after']}" if report["version_after"] else "")
        + (f", applied {_after(took)}" if took is not None else "")
    )
    _print_shards(report)
    _print_quality(report)
    if report["owes_exact_repair"]:
        tell(f"approximate: {_repair(report)}")
    if report["already_forgotten"] or report["ignored_unknown"]:
        tell(f"{report['already_forgotten']} forgotten before, {report['ignored_unknown']} unknown and ignored")
    _print_elsewhere(report)
    after_deletion(report, config)


def _print_elsewhere(report: dict[str, Any]) -> None:
    """Print how far a request is in linked models, and whose coordinator has to run."""
    if report["origin"]:
        tell(f"  passed on by a linked model: {report['origin']}")
    for there in report["models"]:
        why = f": {there['reason']}" if there["reason"] else ""
        number = f", certificate {there['certificate']}" if there.get("certificate") else ""
        tell(f"  model {there['name']}: {there['state']} {there['request_id'] or ''}{number}{why}".rstrip())
    if any(there["state"] == ForwardState.WAITING for there in report["models"]):
        tell("  what is WAITING was not passed on yet: `hybridmu run` with this configuration goes on trying")
    begun = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)
    if names := [there["name"] for there in report["models"] if there["state"] in begun]:
        tell(f"  to be fulfilled by the coordinator(s) of {', '.join(names)}: `hybridmu run` with that configuration")


def print_list(found: list[dict[str, Any]]) -> None:
    """Print a table of requests."""
    if not found:
        tell("no requests")
        return
    table = Table("request", "state", "caller", "keys", "accepted", "applied", "served", "exact", "purged", "deadline")
    for row in found:
        times = [row[f"{name}_at"] for name in ("applied", "served", "exact", "purged", "deadline")]
        shown = [_after(at - row["received_at"]) if at else "" for at in times]
        table.add_row(
            row["request_id"], row["state"], row["caller"], str(row["keys"]), _utc(row["received_at"]), *shown
        )
    print_table(table)


def print_page(page: dict[str, Any]) -> None:
    """Print a part of the list of requests, and how to see the part after it."""
    print_list(page["requests"])
    if page["next_before"] is not None:
        tell(f"older ones: --before {page['next_before']}")


def print_request(report: dict[str, Any], config: Path) -> None:
    """Print every time of a request, what it waits for, and plan against actual.

    Args:
        report: As `System.report` returns it, and what else the command knows.
        config: Of the system.
    """
    asked = f", asked by {report['caller']}" if report["caller"] else ""
    tell(f"{report['request_id']} {report['state']}{asked}: {report['keys']} key(s), strategy {report['strategy']}")
    if report["reason"]:
        tell(f"  because   {report['reason']}")
    tell(f"  accepted  {_utc(report['received_at'])}")
    if approval := report["approval"]:
        tell(f"  approved  {_approved(approval)}")
    slack = report["slack_seconds"]
    left = "" if slack is None else f", {due(slack)}"
    tell(f"  deadline  {_after(report['seconds_to_deadline']) + left if left else 'none'}")
    version, exact = report["version_after"], report["version_exact"]
    how = "exactly" if version == exact else "approximately"
    notes = {
        "applied": f", {how}, by version {version}",
        "served": "",
        "exact": f", by version {exact}",
        "purged": f", certificate {report['certificate']}" if report["certificate"] else "",
    }
    for name, note in notes.items():
        took = report[f"seconds_to_{name}"]
        if took is None and report["state"] == RequestState.CANCELLED:
            continue
        tell(f"  {name:8}  {'not yet' if took is None else _after(took) + note}")
    if report["owes_exact_repair"]:
        tell(_repair(report))
    for earlier, number in report["relies_on"].items():
        tell(f"  rows of it are those of {earlier}{f', certificate {number}' if number else ''}")
    for placed in report["holds"]:
        tell(hold_text(placed))
    _print_elsewhere(report)
    _print_quality(report)
    _print_shards(report)
    after_deletion(report, config)


def _print_shards(report: dict[str, Any]) -> None:
    columns = ("shard", "strategy", "rule", "rows", "slice", "visits", "planned", "seconds", "estimated")
    rounds = {row["round"]: None for row in report["shards"]}
    for number, name in enumerate(rounds, start=1):
        table = Table(*columns, title=f"round {number} of {len(rounds)}" if len(rounds) > 1 else None)
        for s in (row for row in report["shards"] if row["round"] == name):
            cells = (s["shard"], s["strategy"], s["rule"], s["revoked"], s["first_slice"], s["sample_visits"])
            seconds = (f"{s['measured_seconds']:.3f}", f"{s['estimated_seconds']:.3f}")
            table.add_row(*map(str, (*cells, s["planned_visits"], *seconds)))
        print_table(table)


def _print_quality(report: dict[str, Any]) -> None:
    """Print what the deletion changed in the quality of what is served, as far as it was measured."""
    measured = report["quality"]
    if said := change_line(measured["before"], measured["after"]):
        tell(f"  quality   {said}")
    if report["version_exact"] != report["version_after"] and (
        said := change_line(measured["before"], measured["exact"])
    ):
        tell(f"  exact     {said}")


def _approved(approval: dict[str, Any]) -> str:
    """Return who approved a request and when, or that nobody did."""
    if approval["approved_by"] is None:
        return f"not yet: another caller has to, for {approval['rows']} row(s)"
    return f"by {approval['approved_by']}, {_utc(approval['approved_at'])}"


def _repair(report: dict[str, Any]) -> str:
    """Return when the exact retrain comes that an approximate removal owes."""
    deadline = report["deadline_at"]
    if report["repair"] == "idle":
        when = f"as soon as no request waits{before_deadline(deadline)}"
    elif deadline:
        when = f"when it must{before_deadline(deadline)}"
    else:
        when = "when the shard's error budget is spent: there is no deadline, and policy.repair is `deadline`"
    shards = ", ".join(map(str, report["owes_exact_repair"]))
    return f"shards {shards} owe an exact retrain; `hybridmu run` makes it by itself {when}"


def before_deadline(deadline: float | None) -> str:
    """Return how long it is until a deadline; empty without one."""
    if deadline is None:
        return ""
    left = deadline - time.time()
    if left > 0:
        return f", before the deadline in {length(left)}"
    return f", though the deadline passed {length(-left)} ago"


def hold_text(placed: dict[str, Any]) -> str:
    """Return a legal hold in one line."""
    what = placed["request_id"] or "every request"
    by = f" by {placed['caller']}" if placed["caller"] else ""
    return f"legal hold {placed['number']} on {what}, since {_utc(placed['placed_at'])}{by}: {placed['reason']}"


def _after(seconds: float) -> str:
    return f"after {seconds:.{1 if seconds >= 1 else 2}f} s"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
