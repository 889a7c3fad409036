"""Figures of the benchmarks (`benchmarks/bench*.py`): rows of docs/study/benchmarks.csv, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.records import environment
from benchmarks.study.study_tables import table

_FILE = "benchmarks.csv"
Cases = Mapping[str, Mapping[str, float]]

# How many times faster than the retrain an update without fine-tuning is to be.
FASTER = 8.0
_LOOP, _ACCEPT_MS, _MANY_SECONDS, _PLAN_SECONDS = 1.0, 20.0, 1.0, 0.2
_THROUGHPUT, _P99, _QUARANTINE_SECONDS = 0.9, 1.3, 1.0


@dataclass(frozen=True)
class Figure:
    """One figure of one run.

    Attributes:
        benchmark: Which benchmark.
        run: When it was written, in UTC.
        case: What of it; empty: there is one only.
        name: What was measured, with its unit.
        value: The figure.
        hardware: As in the study's rows.
        versions: The same.
        commit: The same.
    """

    benchmark: str
    run: str
    case: str
    name: str
    value: float
    hardware: str
    versions: str
    commit: str


def write(path: Path | None, benchmark: str, cases: Cases) -> None:
    """Append the figures of one run to a file; None: to none."""
    if path is not None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        found = [
            Figure(benchmark, now, case, name, float(value), **environment())
            for case, figures in cases.items()
            for name, value in figures.items()
        ]
        csvfile.append(path, found, Figure)


def read(folder: Path, benchmark: str, file: str = _FILE) -> dict[str, dict[str, float]]:
    """Return case → name → value, each case as its last run left it.

    Args:
        folder: Of the CSV files.
        benchmark: Which benchmark.
        file: Its file there.
    """
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for figure in csvfile.read(folder / file, Figure):
        if figure.benchmark == benchmark:
            runs.setdefault(figure.case, {}).setdefault(figure.run, {})[figure.name] = figure.value
    return {case: found[max(found)] for case, found in runs.items()}


def made(folder: Path, _: str) -> str:
    """Return what made the figures that are shown."""
    last: dict[tuple[str, str], Figure] = {}
    for figure in csvfile.read(folder / _FILE, Figure):
        key = figure.benchmark, figure.case
        last[key] = max(last.get(key, figure), figure, key=lambda each: each.run)
    lines = dict.fromkeys((f.benchmark, f.run[:10], f.hardware, f.versions, f.commit) for f in last.values())
    return table(("benchmark", "day", "hardware", "versions", "commit"), list(lines))


def made_by(folder: Path, benchmark: str, file: str) -> str:
    """Return a line that says what made the figures of one file; empty without figures."""
    lines = dict.fromkeys(
        f"{f.hardware}; {f.versions}; commit {f.commit}; {f.run[:10]}"
        for f in csvfile.read(folder / file, Figure)
        if f.benchmark == benchmark
    )
    return "".join(f"\n\nMade by: {line}." for line in lines)


def loop(folder: Path, _: str) -> str:
    """Return ways to compute a step, over a bare loop."""
    lines = [
        (
            way,
            judged(f"{f['ratio']:.2f}", f["ratio"] <= _LOOP),
            f"{f['first_seconds']:.2f} s",
            f"{100 * f['accuracy']:.1f} %",
            "yes" if f["same_bits"] else "no",
        )
        for way, f in read(folder, "loop").items()
    ]
    head = (
        f"step (goal: at most {_LOOP:g})",
        "over the bare loop",
        "first run",
        "accuracy, unseen rows",
        "same bits every time",
    )
    return table(head, lines)


def peers(folder: Path, _: str) -> str:
    """Return forgetting beside torchunlearn's, of the same run. The goal is half of its seconds."""
    lines = []
    for case, found in read(folder, "peers").items():
        ours, theirs = found["seconds_to_applied"], found["peer_seconds"]
        lines.append((
            case,
            judged(f"{ours:.2f} s", ours <= theirs / 2),
            f"{found['worker_seconds']:.2f} s",
            "yes" if found["bitwise_equal"] else "no",
            f"{theirs:.2f} s",
            f"{theirs / ours:.1f} times",
            f"{100 * found['peer_tainted']:.0f} %",
        ))
    head = (
        "forget",
        "HybridMU, to an applied version",
        "on the workers",
        "exact bit for bit, after all",
        "torchunlearn",
        "slower (goal: 2)",
        "of its requests, trained on rows forgotten before",
    )
    return table(head, lines)


def updates(folder: Path, _: str) -> str:
    """Return how many times faster updates are than the retrain of the same shard: wall clock / processor."""
    found = read(folder, "update")
    shown = ("dpus", "dpus-newton", "dpus-optimised", "rewind")
    lines = []
    for system in dict.fromkeys(case.rpartition(" ")[0] for case in found):
        each = [found[f"{system} {name}"] for name in ("retrain", *shown)]
        cells = [
            judged(f"{f['faster']:.1f} / {f['faster_cpu']:.1f}", min(f["faster"], f["faster_cpu"]) >= FASTER)
            if name in shown[:2]
            else f"{f['faster']:.1f} / {f['faster_cpu']:.1f}"
            for name, f in zip(shown, each[1:], strict=True)
        ]
        lines.append((system, f"{1000 * each[0]['seconds']:.0f} ms", *cells))
    return table(("system, rows revoked", "retrain", *shown), lines)


def requests(folder: Path, _: str) -> str:
    """Return what accepting, planning and purging takes."""
    lines = []
    for f in read(folder, "accept").values():
        fsync, p50, p99, many = (f[n] for n in ("fsync_ms", "accept_p50_ms", "accept_p99_ms", "ten_thousand_ids_s"))
        lines += [
            (
                f"accept a request, durable, {f['rate']:g} a second, {f['known_ids']:,.0f} known ids",
                f"p50 {p50:.1f} ms, p99 {judged(f'{p99:.1f} ms', p99 <= _ACCEPT_MS)} (an fsync: {fsync:.1f} ms)",
                f"p99 {_ACCEPT_MS:g} ms",
            ),
            (
                "accept 10,000 ids in one request",
                judged(f"{many:.2f} s", many <= _MANY_SECONDS),
                f"{_MANY_SECONDS:g} s",
            ),
        ]
    for f in read(folder, "plan").values():
        what = f"plan {f['shards']:,.0f} shards with {f['pending_ids']:,.0f} pending ids"
        lines.append((what, judged(f"{f['total_s']:.2f} s", f["total_s"] <= _PLAN_SECONDS), f"{_PLAN_SECONDS:g} s"))
    for f in read(folder, "purge").values():
        seconds, writes, reads = (f[name] for name in ("purge_s", "writes_per_file", "reads_per_table"))
        lines.append((
            f"purge {f['revoked']:,.0f} rows in all shards of {f['rows']:,.0f}, certificate included",
            f"{seconds:.1f} s; each file written {writes:.0f} time(s), each table read {reads:.1f} times its bytes",
            "written and read once",
        ))
    return table(("what", "measured", "goal"), lines)


def coverage(folder: Path, _: str) -> str:
    """Return how often deletions stay below what canaries predict, by their size; it is to be nine of ten."""
    cases = read(folder, "calibration")
    systems: dict[str, list[dict[str, float]]] = {}
    for case, figures in sorted(cases.items(), key=lambda item: item[1]["size"]):
        systems.setdefault(case.rpartition(", ")[0], []).append(figures)
    lines = []
    for system in dict.fromkeys(case.rpartition(", ")[0] for case in cases):
        sizes = systems[system]
        total = sum(f["deletions"] for f in sizes)
        cells = [
            f"{100 * f['below']:.0f} %, {f['median_gap']:.3f} of {f['median_error_plus_spread']:.3f}" for f in sizes
        ]
        all_of_them = sum(f["below"] * f["deletions"] for f in sizes) / total
        lines.append((*system.split(", "), f"{total:.0f}", *cells, f"{100 * all_of_them:.0f} %"))
    shares = sorted({f["size"] for sizes in systems.values() for f in sizes})
    head = (
        "data",
        "optimizer",
        "update",
        "deletions",
        *(f"{100 * share:g} % of a shard" for share in shares),
        "all sizes",
    )
    return table(head, lines)


def serving(folder: Path, _: str) -> str:
    """Return what serving costs beside a no-op deployment, and what swaps and quarantines do."""
    cases = read(folder, "serving")
    lines = []
    for what, goal, cell in _SERVING:
        lines.append((what, *(cell(f) for f in cases.values()), goal))
    return table(("what", *cases, "goal"), lines)


def _share(name: str, goal: float, above: bool) -> Callable[[Mapping[str, float]], str]:
    return lambda f: judged(f"{f[name]:.2f}", f[name] >= goal if above else f[name] <= goal)


def _none(name: str) -> Callable[[Mapping[str, float]], str]:
    return lambda f: judged(f"{f[name]:.0f}", f[name] == 0)


def _quarantined(f: Mapping[str, float]) -> str:
    if "quarantine_p95_seconds" not in f:
        return ""
    p95 = f["quarantine_p95_seconds"]
    return f"p50 {f['quarantine_p50_seconds']:.2f} s, p95 {judged(f'{p95:.2f} s', p95 <= _QUARANTINE_SECONDS)}"


_SERVING: Sequence[tuple[str, str, Callable[[Mapping[str, float]], str]]] = (
    ("throughput over the no-op's", f"{_THROUGHPUT:g}", _share("throughput_ratio", _THROUGHPUT, above=True)),
    ("p99 over the no-op's", f"{_P99:g}", _share("p99_ratio", _P99, above=False)),
    (
        "requests per second, p50, p99 (clients on the same cores)",
        "",
        lambda f: f"{f['requests_per_second']:,.0f}, {f['p50_ms']:.0f} ms, {f['p99_ms']:.0f} ms",
    ),
    ("swaps under load", "", lambda f: f"{f['swaps']:.0f}"),
    ("answers meanwhile", "", lambda f: f"{f['answers']:,.0f}"),
    ("of these, failed", "0", _none("failed_requests")),
    ("of these, older than a version reported SERVED", "0", _none("answers_older_than_served")),
    ("quarantine, from acceptance to the last answer that counted a touched shard", "p95 1 s", _quarantined),
    (
        "answers that counted a shard after its quarantine was reported",
        "0",
        _none("answers_that_counted_a_quarantined_shard"),
    ),
)


def judged(text: str, met: bool) -> str:
    """Return a cell of a table that says whether its goal is met."""
    return f"**{text}**" if met else f"{text} (missed)"


TABLES: dict[str, Callable[[Path, str], str]] = {
    "coverage": coverage,
    "made": made,
    "loop": loop,
    "peers": peers,
    "requests": requests,
    "serving": serving,
    "updates": updates,
}
