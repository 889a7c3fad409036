"""Tables of the study, from its CSV files alone (`pages.py` puts them in their places)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.study import audited, batches, decisions, goals, records
from benchmarks.study.comparison import FASTER, NOISES, POINTS, compare, geometric_mean, noise_of, rms
from benchmarks.study.grid import CONTENDERS
from benchmarks.study.records import Record

Row = Sequence[str]


def runs(folder: Path, _: str) -> str:
    """Return what was measured, per file and system."""
    lines: list[Row] = []
    for path in (folder / "boundary.csv", folder / "headline.csv", folder / "singles.csv"):
        found = records.read(path)
        for system in dict.fromkeys(map(_system, found)):
            mine = [record for record in found if _system(record) == system]
            lines.append((
                path.name,
                system,
                _listed({str(record.seed) for record in mine}),
                str(len({record.mix for record in mine})),
                str(len({record.strategy for record in mine})),
                str(len(mine)),
                _listed({str(record.workers) for record in mine}),
                _spread([r.device_seconds / r.cpu_seconds for r in mine if r.strategy == "sisa"], "{:.2f}"),
                _listed({record.hardware for record in mine}),
                _listed({record.versions for record in mine}),
                _listed({record.commit for record in mine}),
            ))
    counts = ("seeds", "mixes", "strategies", "rows", "workers")
    return table(("file", "system", *counts, "load of retrains", "hardware", "versions", "commit"), lines)


def strategies(folder: Path, _: str) -> str:
    """Return the contenders, in words."""
    return table(("strategy", "what it does"), [(name, given.about) for name, given in CONTENDERS.items()])


def headline(folder: Path, system: str) -> str:
    """Return every strategy against always retraining, on one dataset and model, per request mix."""
    every = records.read(folder / "headline.csv")
    found = [r for r in every if f"{r.dataset}/{r.model}" == system and not r.mix.startswith("stream:")]
    lines: list[Row] = []
    for mix in dict.fromkeys(record.mix for record in found):
        group = [record for record in found if record.mix == mix]
        label = mix
        for name in CONTENDERS:
            figures = _figures(group, name)
            if figures:
                lines.append((label, name, *figures))
                label = ""
    head = (
        "mix",
        "strategy",
        "seeds",
        "faster, wall",
        "faster, processor",
        "faster, device-seconds",
        "with repairs",
        "accuracy minus oracle's, points",
        "forget-loss gap",
        "in noises",
        "ToW",
        "bits",
        f"{FASTER:g}x, {POINTS:g} points, {NOISES:g} noises",
    )
    return table(head, lines)


def stream(folder: Path, _: str) -> str:
    """Return how streams of single-row requests fare: latency in simulated time, cost, and what is left at the end."""
    found = [record for record in records.read(folder / "headline.csv") if record.mix.startswith("stream:")]
    lines: list[Row] = []
    for system in dict.fromkeys(f"{record.dataset}/{record.model}" for record in found):
        group = [record for record in found if f"{record.dataset}/{record.model}" == system]
        noise = noise_of(group)
        for name in [name for name in CONTENDERS if any(record.strategy == name for record in group)]:
            mine = [record for record in group if record.strategy == name]
            gaps = [record.gap for record in mine]
            lines.append((
                system,
                name,
                str(len(mine)),
                _spread([record.applied_p50 or 0.0 for record in mine], "{:.2f}"),
                _spread([record.applied_p95 or 0.0 for record in mine], "{:.2f}"),
                _spread([record.cpu_seconds for record in mine], "{:.1f}"),
                _spread([100 * (record.accuracy - record.oracle_accuracy) for record in mine], "{:+.2f}"),
                _spread(gaps, "{:+.4f}"),
                f"{rms(gaps) / noise:.1f}" if noise else "",
                f"{sum(r.bitwise for r in mine)}/{sum(r.touched for r in mine)}",
            ))
    head = (
        "system",
        "strategy",
        "seeds",
        "median seconds to applied",
        "95th percentile",
        "processor seconds in all",
        "accuracy minus oracle's, points",
        "forget-loss gap",
        "in noises",
        "bits",
    )
    return table(head, lines)


def boundary(folder: Path, _: str) -> str:
    """Return what retraining and updating cost, by where the deletion begins, on systems of several shapes."""
    found = [record for record in records.read(folder / "boundary.csv") if record.mix.startswith("from:")]
    shown = ("sisa", "dpus", "dpus-optimised", "dpus-newton")
    lines: list[Row] = []
    for system, mix in sorted({(_system(record), record.mix) for record in found}):
        group = [record for record in found if (_system(record), record.mix) == (system, mix)]
        by_name = {name: [record for record in group if record.strategy == name] for name in (*shown, "hybrid")}
        if all(by_name.values()):
            costs = [statistics.mean(record.cpu_seconds for record in by_name[name]) for name in shown]
            gaps = [f"{statistics.mean(record.gap for record in by_name[name]):+.4f}" for name in shown[1:]]
            rules = "; ".join(record.rules for record in by_name["hybrid"])
            lines.append((system, mix, *(f"{cost:.2f}" for cost in costs), *gaps, f"{noise_of(group):.4f}", rules))
    head = ("system", "mix", *(f"{name}, s" for name in shown), *(f"gap of {name}" for name in shown[1:]))
    return table((*head, "noise", "the planner's rules"), lines)


def planner(folder: Path, _: str) -> str:
    """Return which rules decided for the hybrid, and how good its estimates were."""
    found = [r for r in records.read(folder / "headline.csv") if r.strategy == "hybrid" and r.rules]
    lines: list[Row] = []
    for system, mix in dict.fromkeys((f"{r.dataset}/{r.model}", r.mix) for r in found):
        mine = [r for r in found if (f"{r.dataset}/{r.model}", r.mix) == (system, mix)]
        ratios = [r.wall_seconds / r.estimated_seconds for r in mine if r.estimated_seconds]
        lines.append((system, mix, "; ".join(r.rules for r in mine), _spread(ratios, "{:.2f}")))
    return table(("system", "mix", "rules, per seed", "measured over estimated seconds"), lines)


def _figures(group: Sequence[Record], strategy: str) -> Row:
    """Return one strategy's columns, of all that was measured of a request mix; none where it was not."""
    found = compare(group, strategy)
    if found is None:
        return ()
    mine = [record for record in group if record.strategy == strategy]
    exact_or_control = {"scratch": "exact", "sisa": "exact", "nothing": "control", "oracle-again": "control"}
    return (
        str(len(mine)),
        _times(found.wall),
        _times(found.processor),
        _times(found.device),
        _times(found.repaired),
        _spread(found.points, "{:+.2f}"),
        _spread(found.gaps, "{:+.4f}"),
        f"{found.off:.1f}" if found.noise else "",
        f"{statistics.mean(record.tow for record in mine):.3f}",
        f"{sum(r.bitwise for r in mine)}/{sum(r.touched for r in mine)}",
        exact_or_control.get(strategy) or found.verdict,
    )


def _times(ratios: Sequence[float]) -> str:
    mean = geometric_mean(ratios)
    if mean == float("inf"):
        return "free"
    return f"{mean:.1f}x" if len(ratios) == 1 else f"{mean:.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"


def _spread(values: Sequence[float], form: str) -> str:
    """Return the mean, and the least and the greatest of several."""
    if not values:
        return ""
    text = form.format(statistics.mean(values))
    return f"{text} [{form.format(min(values))}, {form.format(max(values))}]" if len(values) > 1 else text


def _system(record: Record) -> str:
    return f"{record.dataset}/{record.model} S={record.shards} R={record.slices} epochs={record.epochs}"


def _listed(values: set[str]) -> str:
    return "; ".join(sorted(values))


def table(head: Row, lines: Iterable[Row]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def _of(found: Callable[[Path, str], tuple[Row, Sequence[Row]]]) -> Callable[[Path, str], str]:
    return lambda folder, argument: table(*found(folder, argument))


TABLES: dict[str, Callable[[Path, str], str]] = {
    "audits": audited.table,
    "batches": lambda folder, _: table(batches.HEAD, batches.lines(folder)),
    "boundary": boundary,
    **{name: _of(found) for name, found in decisions.FOUND.items()},
    "goals": lambda folder, _: table(*goals.goals(folder)),
    "headline": headline,
    "mixes": lambda folder, _: table(*goals.mixes(folder)),
    "hybrid": lambda folder, _: table(*goals.hybrid(folder)),
    "planner": planner,
    "runs": runs,
    "singles": lambda folder, _: table(*goals.singles(folder)),
    "strategies": strategies,
    "stream": stream,
}
