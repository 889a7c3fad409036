"""Figures of the study, as SVG, from the CSV files alone: `python benchmarks/run_study.py plots --figure NAME`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study import audited, crossover, decisions, records
from benchmarks.study.comparison import FASTER, NOISES, compare, geometric_mean, rms
from benchmarks.study.drawing import colour_of, legend
from benchmarks.study.grid import CONTENDERS
from benchmarks.study.records import Record
from benchmarks.suite.figure import quality_against_price
from hybridmu.report.svg_plots import svg

_CONTROLS = ("nothing", "oracle-again", "scratch")
_LEAST = 0.05


def speed_against_gap(folder: Path) -> str:
    """Return, per system, how much faster than retraining every strategy is against how far it is from the oracle.

    One point per strategy and mix: a geometric mean over seeds, and a root mean square in noises of the oracle. Gaps of
    less than a twentieth of a noise are drawn there. Rows drawn evenly are dots, other mixes crosses. The goals of time
    and gap are met in the shaded corner.
    """
    every = records.read(folder / "headline.csv")
    figure, panels = _panels(every)
    for name, axes in panels.items():
        mine = [record for record in every if _name(record) == name]
        for mix in dict.fromkeys(record.mix for record in mine if not record.mix.startswith("stream")):
            group = [record for record in mine if record.mix == mix]
            for strategy in [s for s in CONTENDERS if s not in {*_CONTROLS, "sisa"}]:
                found = compare(group, strategy)
                if found and found.noise:
                    times, gap = geometric_mean(found.processor), max(found.off, _LEAST)
                    shape, label = ("o", strategy) if mix.startswith("share") else ("x", None)
                    axes.scatter([times], [gap], s=22, marker=shape, lw=1, color=colour_of(strategy), label=label)
        axes.set(xscale="log", yscale="log", title=name, xlabel="times faster than retraining (processor)")
        axes.set_ylabel("forget-loss gap / oracle's noise")
        (_, right), (low, _) = axes.get_xlim(), axes.get_ylim()
        axes.fill_between([FASTER, max(right, 1.2 * FASTER)], low, NOISES, color="#2ca02c", alpha=0.12, lw=0, zorder=0)
    legend(figure, panels.values())
    return svg(figure)


def cost_against_share(folder: Path) -> str:
    """Return, per system, processor seconds against the share of rows that is revoked: geometric means over seeds."""
    drawn = [name for name in CONTENDERS if name != "nothing"]
    return _against_share(folder, drawn, lambda r: r.cpu_seconds, statistics.geometric_mean, "processor seconds", "log")


def gap_against_share(folder: Path) -> str:
    """Return, per system, how far single deletions are from the oracle: root mean square gaps over seeds.

    `oracle-again` is the noise: what two oracles differ by.
    """
    drawn = [name for name in CONTENDERS if name not in {"scratch", "sisa"}]
    return _against_share(folder, drawn, lambda r: max(abs(r.gap), 1e-5), rms, "forget-loss gap, nats (rms)", "log")


def accuracy_against_share(folder: Path) -> str:
    """Return, per system, test accuracy minus the oracle's against the share of rows that is revoked: means."""
    drawn = [name for name in CONTENDERS if name not in {"scratch", "sisa"}]
    return _against_share(folder, drawn, _points, statistics.mean, "points of accuracy", "symlog")


def _against_share(
    folder: Path,
    strategies: Sequence[str],
    value: Callable[[Record], float],
    over_seeds: Callable[[list[float]], float],
    label: str,
    scale: str,
) -> str:
    """Draw a line per strategy; its points are the mixes of evenly drawn rows, whose shares differ a little by seed."""
    found = [r for r in records.read(folder / "headline.csv") if r.mix.partition(":")[0] in {"rows", "share"}]
    figure, panels = _panels(found)
    for name, axes in panels.items():
        for strategy in strategies:
            mixes: dict[str, list[Record]] = {}
            for record in found:
                if _name(record) == name and record.strategy == strategy:
                    mixes.setdefault(record.mix, []).append(record)
            points = sorted(
                (statistics.mean(r.revoked / r.rows for r in group), over_seeds([value(r) for r in group]))
                for group in mixes.values()
            )
            if points:
                width = 2.2 if strategy == "hybrid" else 1.0
                axes.plot(*zip(*points, strict=True), color=colour_of(strategy), lw=width, marker=".", label=strategy)
        axes.set(xscale="log", title=name, xlabel="share of rows revoked", ylabel=label)
        axes.set_yscale(scale, **({"linthresh": 0.5} if scale == "symlog" else {}))
    legend(figure, panels.values())
    return svg(figure)


def _points(record: Record) -> float:
    return 100 * (record.accuracy - record.oracle_accuracy)


def _panels(found: Sequence[Record]) -> tuple[Figure, dict[str, Axes]]:
    names = list(dict.fromkeys(map(_name, found))) or ["nothing measured"]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), layout="constrained")
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
    "quality_against_price": quality_against_price,
    "regret": decisions.regret_curves,
    "speed_against_gap": speed_against_gap,
}
