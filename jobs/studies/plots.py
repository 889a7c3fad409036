"""Figures of the study, as SVG, from the CSV files alone: `python jobs/study.py plots --figure NAME`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridmu.report.plots import svg
from jobs.studies import audited, crossover, decisions, records
from jobs.studies.comparison import FASTER, NOISES, compare, geometric_mean
from jobs.studies.drawing import colour_of, legend
from jobs.studies.grid import CONTENDERS
from jobs.studies.records import Record

_CONTROLS = ("nothing", "oracle-again", "scratch")


def speed_against_gap(folder: Path) -> str:
    """Return, per system, how much faster than retraining every strategy is against how far it is from the oracle."""
    every = records.read(folder / "headline.csv")
    figure, panels = _panels(every)
    for name, axes in panels.items():
        mine = [record for record in every if _name(record) == name]
        for mix in dict.fromkeys(record.mix for record in mine):
            group = [record for record in mine if record.mix == mix]
            for strategy in [s for s in CONTENDERS if s not in {*_CONTROLS, "sisa"}]:
                found = compare(group, strategy)
                if found and found.noise:
                    times, gap = geometric_mean(found.processor), max(found.off, 0.05)
                    axes.scatter([times], [gap], s=16, color=colour_of(strategy), label=strategy)
        axes.axvline(FASTER, color="#999999", lw=0.8)
        axes.axhline(NOISES, color="#999999", lw=0.8)
        axes.set(xscale="log", yscale="log", title=name, xlabel="times faster than retraining (processor)")
        axes.set_ylabel("forget-loss gap / oracle's noise")
        legend(axes)
    return svg(figure)


def cost_against_share(folder: Path) -> str:
    """Return, per system, processor seconds against the share of rows that is revoked."""
    return _against_share(folder, lambda record: record.cpu_seconds, "processor seconds", log=True)


def gap_against_share(folder: Path) -> str:
    """Return, per system, the forget-loss gap against the share of rows that is revoked."""
    return _against_share(folder, lambda record: record.gap, "forget-loss gap", log=False)


def accuracy_against_share(folder: Path) -> str:
    """Return, per system, test accuracy minus the oracle's against the share of rows that is revoked."""
    return _against_share(folder, lambda r: 100 * (r.accuracy - r.oracle_accuracy), "points", log=False)


def _against_share(folder: Path, value: Callable[[Record], float], label: str, *, log: bool) -> str:
    found = [r for r in records.read(folder / "headline.csv") if r.mix.partition(":")[0] in {"rows", "share"}]
    figure, panels = _panels(found)
    for name, axes in panels.items():
        for strategy in CONTENDERS:
            mine = [record for record in found if _name(record) == name and record.strategy == strategy]
            if log and strategy == "nothing":
                continue  # it costs nothing
            points = sorted({record.revoked / record.rows for record in mine})
            _line(axes, strategy, points, mine, lambda r: r.revoked / r.rows, value)
        axes.set(xscale="log", title=name, xlabel="share of rows revoked", ylabel=label)
        axes.set_yscale("log" if log else "symlog", **({} if log else {"linthresh": 0.1}))
        legend(axes)
    return svg(figure)


def _line(
    axes: Axes,
    strategy: str,
    points: Sequence[float],
    mine: Sequence[Record],
    at: Callable[[Record], float],
    value: Callable[[Record], float],
) -> None:
    means = [statistics.mean(value(record) for record in mine if at(record) == point) for point in points]
    if means:
        axes.plot(points, means, marker=".", lw=1, color=colour_of(strategy), label=strategy)


def _panels(found: Sequence[Record]) -> tuple[Figure, dict[str, Axes]]:
    names = list(dict.fromkeys(map(_name, found))) or ["nothing measured"]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.2 * columns, 4 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for unused in every[len(names) :]:
        unused.set_axis_off()
    return figure, dict(zip(names, every[: len(names)], strict=True))


def _name(record: Record) -> str:
    return f"{record.dataset}/{record.model} S={record.shards} R={record.slices} e={record.epochs}"


FIGURES: dict[str, Callable[[Path], str]] = {
    "accuracy_against_share": accuracy_against_share,
    "audit_klom": audited.klom,
    "audit_roc": audited.roc,
    "cost_against_share": cost_against_share,
    "crossover_epochs": crossover.epochs,
    "crossover_first_slice": crossover.first_slice,
    "crossover_revoked": crossover.revoked,
    "crossover_shards": crossover.shards,
    "crossover_slices": crossover.slices,
    "gap_against_share": gap_against_share,
    "regret": decisions.regret_curves,
    "speed_against_gap": speed_against_gap,
}
