"""The life of a request on one line: states in order, times between them, its deadline, and what is next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from hybridmu.types import RequestState

Kind = Literal["done", "wait", "stop", "deadline", "late"]

# Moments that every request passes, in the order in which they are to come.
_MOMENTS = (
    ("accepted", "received_at"),
    ("planned", "planned_at"),
    ("out of every vote", "quarantined_at"),
    ("applied", "applied_at"),
    ("served", "served_at"),
    ("exact", "exact_at"),
    ("purged", "purged_at"),
)


@dataclass(frozen=True)
class Step:
    """One mark on the line.

    Attributes:
        name: What happened, or is to happen.
        kind: `done`, `wait`: it is to come, `stop`: the request goes no further by itself, `deadline`, or `late`: a
            deadline that was missed.
        at: When, in seconds since the epoch; None while it is to come, and where nobody noted it.
        note: How long after the mark before; of the deadline, what is left.
        current: Whether the request stands here.
    """

    name: str
    kind: Kind
    at: float | None = None
    note: str = ""
    current: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What decides, beside the request itself, what happens to it next.

    Attributes:
        coordinator: Whether one is at work.
        paused: Whether requests are accepted and not begun.
        collect_seconds: How long requests are collected before they are begun together.
    """

    coordinator: bool
    paused: bool = False
    collect_seconds: float = 0.0


def spoken(seconds: float) -> str:
    """Return a length of time as one says it.

    Example:
        >>> spoken(0.5), spoken(200.0), spoken(7225.0), spoken(1_000_000.0)
        ('0.5 s', '3 min', '2 h 00 min', '12 days')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 2880 else f"{minutes / 1440:.0f} days"


def steps(report: Mapping[str, Any], now: float, *, quarantine: bool = False) -> list[Step]:
    """Return the marks of a request in the order of time, those to come after those that are past.

    Args:
        report: As `System.report` returns it.
        now: Seconds since the epoch.
        quarantine: Whether the policy takes touched shards out of the vote.

    Example:
        >>> asked = dict.fromkeys((name for _, name in _MOMENTS), None)
        >>> asked |= {"state": "RECEIVED", "received_at": 100.0, "deadline_at": 160.0}
        >>> [(step.name, step.note) for step in steps(asked, 130.0)][:2]
        [('accepted', 'waiting for 30.0 s'), ('planned', '')]
        >>> steps(asked, 130.0)[-1]
        Step(name='deadline', kind='deadline', at=160.0, note='in 30.0 s', current=False)
    """
    state, approval = report["state"], report.get("approval")
    over = state in {RequestState.PURGED, RequestState.CANCELLED}
    past = [Step(name, "done", report[field]) for name, field in _MOMENTS if report[field] is not None]
    if approval is not None:  # before it nothing was accepted
        past[0] = replace(past[0], name="proposed")
        if approval["approved_at"] is not None:
            past.append(Step("approved", "done", approval["approved_at"]))
    past = _apart(sorted(past, key=lambda step: step.at or 0.0))  # stable: of one moment, in the order of the states
    if state in {RequestState.FAILED, RequestState.CANCELLED}:
        past.append(Step("failed" if state == RequestState.FAILED else "taken back", "stop"))
    elif not over:
        past[-1] = replace(past[-1], note=_waiting(past[-1], now))
    past[-1] = replace(past[-1], current=True)
    to_come = [Step("approved", "wait")] if state == RequestState.PROPOSED else []
    to_come += [
        Step(name, "wait")
        for name, field in _MOMENTS
        if not over and report[field] is None and (quarantine or field != "quarantined_at")
    ]
    if report["deadline_at"] is None or state == RequestState.CANCELLED:
        return [*past, *to_come]
    return _with_deadline(past, to_come, report, now)


def next_step(report: Mapping[str, Any], around: Surroundings) -> str:
    """Return what happens to a request next, and what it waits for, in one sentence or two.

    Args:
        report: As `System.report` returns it.
        around: What else decides it.

    Example:
        >>> next_step({"state": "RECEIVED"}, Surroundings(coordinator=False))
        'It waits for a coordinator, and none is at work: `hybridmu run` starts one.'
    """
    match report["state"]:
        case RequestState.CANCELLED:
            return "Nothing more happens: it was taken back."
        case RequestState.FAILED:
            return (
                "It stays as it is until somebody takes it up again with `hybridmu requests retry`; until then its "
                "rows train nothing."
            )
        case RequestState.PURGED if report["certificate"] is not None:
            return "Nothing more happens: its rows are gone, and the certificate says so."
        case RequestState.PURGED:
            return "Nothing more happens: no row of its own was left to be purged, so it has no certificate of its own."
        case RequestState.PROPOSED:
            return "Somebody else than its caller approves it, or it is taken back; until then nothing is done."
    if not around.coordinator:
        return "It waits for a coordinator, and none is at work: `hybridmu run` starts one."
    if report["state"] == RequestState.SERVED:
        return _after_serving(report)
    if report["state"] == RequestState.APPLIED:
        return "Every replica takes the new version; it is served once none answers with an older one."
    if report["state"] == RequestState.PLANNED:
        return "Its shards are being worked on; then a version without its rows is published."
    if around.paused:
        return "It is begun when work is resumed: requests are accepted now, and not begun."
    if around.collect_seconds:
        return f"It is begun together with others, {spoken(around.collect_seconds)} after it came at most."
    return "It is planned next; until then it can be taken back."


def _after_serving(report: Mapping[str, Any]) -> str:
    if report["exact_at"] is None:
        owed = ", ".join(map(str, report["owes_exact_repair"]))
        what = f"Exact retraining of shard(s) {owed}" if owed else "Exact retraining"
        when = "once nothing else waits" if report["repair"] == "idle" else "when a deadline comes near"
        return f"{what} follows {when}; then its rows are purged."
    if report["reason"]:
        return "Its rows are purged, and a certificate is written, once what is said above no longer holds them."
    return "Its rows are rewritten out of every file and looked for; then a certificate is written."


def _apart(past: Sequence[Step]) -> list[Step]:
    """Return steps with the time between each and the one before."""
    found = list(past[:1])
    for before, step in pairwise(past):
        found.append(replace(step, note=f"{spoken(max(0.0, (step.at or 0.0) - (before.at or 0.0)))} later"))
    return found


def _waiting(step: Step, now: float) -> str:
    waits = f"waiting for {spoken(max(0.0, now - (step.at or now)))}"
    return f"{step.note}, {waits}" if step.note else waits


def _with_deadline(past: Sequence[Step], to_come: Sequence[Step], report: Mapping[str, Any], now: float) -> list[Step]:
    """Return the steps with the deadline where it falls: it is of the purge, the last of them."""
    deadline, purged = report["deadline_at"], report["purged_at"]
    left = deadline - (now if purged is None else purged)
    if purged is not None:
        note = f"kept with {spoken(left)} to spare" if left >= 0 else f"missed by {spoken(-left)}"
    else:
        note = f"in {spoken(left)}" if left >= 0 else f"overdue by {spoken(-left)}"
    mark = Step("deadline", "deadline" if left >= 0 else "late", deadline, note)
    if left >= 0:
        return [*past, *to_come, mark]
    before = [step for step in past if step.at is not None and step.at <= deadline]
    return [*before, mark, *past[len(before) :], *to_come]
