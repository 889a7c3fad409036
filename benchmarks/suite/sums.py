"""Results of subtraction from integer sums: rows of docs/study/sums.csv, and the table made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.benchmarks import judged
from benchmarks.study.study_tables import table

# At most so many milliseconds from acceptance to the applied version, by features.
_GOALS = {512: 40.0, 2048: 150.0}
# At least so many times faster than a recount, by the share of the rows.
_TIMES = (1000.0, 50.0, 7.0)


@dataclass(frozen=True)
class Result:
    """Deletions from one table of one shard, by subtraction and by recount.

    Attributes:
        run: When it was written, in UTC.
        table: Which table.
        rows: Training rows.
        features: After the projection.
        classes: How many.
        applied_ms: From acceptance to the applied version, one row; the median.
        job_ms: Of that, what the job takes.
        percent_seconds: Of the job that subtracts 1 % of the rows.
        tenth_seconds: Of the job that subtracts 10 %.
        recount_seconds: Of the job that counts all rows, which are in memory.
        bytes_ratio: Size of the stored sub-model over that of the bare sums, p (p + 1) / 2 · 8 bytes.
        hardware: As in the study's rows.
        versions: The same.
        commit: The same.
    """

    run: str
    table: str
    rows: int
    features: int
    classes: int
    applied_ms: float
    job_ms: float
    percent_seconds: float
    tenth_seconds: float
    recount_seconds: float
    bytes_ratio: float
    hardware: str
    versions: str
    commit: str


def sums(folder: Path, _: str) -> str:
    """Return what deletions by subtraction take, beside a recount."""
    found = {(one.table, one.rows, one.features): one for one in csvfile.read(folder / "sums.csv", Result)}
    lines = []
    for one in found.values():
        jobs = (one.job_ms / 1e3, one.percent_seconds, one.tenth_seconds)
        goal = _GOALS.get(one.features)
        applied = f"{one.applied_ms:.0f} ms"
        lines.append((
            one.table,
            f"{one.rows:,}",
            f"{one.features:,}",
            applied if goal is None else judged(applied, one.applied_ms <= goal),
            f"{one.recount_seconds:.2f} s",
            *(_times(one.recount_seconds, *pair) for pair in zip(jobs, _TIMES, strict=True)),
            f"{one.bytes_ratio:.2f}",
        ))
    head = ("table", "rows", "features", "one row applied", "recount", "one row", "1 %", "10 %", "bytes / sums")
    made = dict.fromkeys(f"{f.hardware}; {f.versions}; commit {f.commit}; {f.run[:10]}" for f in found.values())
    return table(head, lines) + "".join(f"\n\nMade by: {line}." for line in made)


def _times(recount: float, seconds: float, goal: float) -> str:
    return judged(f"{seconds:.3f} s, {recount / seconds:,.1f}x", recount / seconds >= goal)
