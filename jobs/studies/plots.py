"""Figures of the study, as SVG, from the CSV files alone: `python jobs/study.py plots --figure NAME`."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.studies import records
from jobs.studies.grid import CONTENDERS
from jobs.studies.records import Record
from jobs.studies.tables import FASTER, NOISES, noise_of, speed

_COLOURS = {name: mpl.colormaps["tab20"](number) for number, name in enumerate(CONTENDERS)}
_CONTROLS = ("nothing", "oracle-again", "scratch")


def speed_against_gap(folder: Path) -> str:
    """Return, per system, how much faster than retraining every strategy is against how far it is from the oracle."""
    found = records.read(folder / "headline.csv")
    figure, panels = _panels(found)
    for name, axes in panels.items():
        mine = [record for record in found if _name(record) == name]
        for mix in dict.fromkeys(record.mix for record in mine):
            group = [record for record in mine if record.mix == mix]
            exact = {record.seed: record for record in group if record.strategy == "sisa"}
            noise = noise_of(group)
            for strategy in [s for s in CONTENDERS if s not in {*_CONTROLS, "sisa"}]:
                chosen = [record for record in group if record.strategy == strategy and record.seed in exact]
                if chosen and noise:
                    times = statistics.mean(speed(r, exact[r.seed], lambda r: r.cpu_seconds) for r in chosen)
                    gap = abs(statistics.mean(record.gap for record in chosen)) / noise
                    axes.scatter([times], [max(gap, 0.05)], s=16, color=_COLOURS[strategy], label=strategy)
        axes.axvline(FASTER, color="#999999", lw=0.8)
        axes.axhline(NOISES, color="#999999", lw=0.8)
        axes.set(xscale="log", yscale="log", title=name, xlabel="times faster than retraining (processor)")
        axes.set_ylabel("forget-loss gap / oracle's noise")
        _legend(axes)
    return _svg(figure)


def cost_against_share(folder: Path) -> str:
    """Return, per system, processor seconds against the share of rows that is revoked."""
    return _against_share(folder, lambda record: record.cpu_seconds, "processor seconds", log=True)


def gap_against_share(folder: Path) -> str:
    """Return, per system, the forget-loss gap against the share of rows that is revoked."""
    return _against_share(folder, lambda record: record.gap, "forget-loss gap", log=False)


def accuracy_against_share(folder: Path) -> str:
    """Return, per system, test accuracy minus the oracle's against the share of rows that is revoked."""
    return _against_share(folder, lambda r: 100 * (r.accuracy - r.oracle_accuracy), "points", log=False)


def crossover(folder: Path) -> str:
    """Return, per system of the boundary grid, seconds of retraining and of updates against the first touched slice."""
    found = [record for record in records.read(folder / "boundary.csv") if record.mix.startswith("from:")]
    figure, panels = _panels(found)
    for name, axes in panels.items():
        for strategy in ("sisa", "hybrid", "dpus-optimised", "dpus-newton"):
            mine = [record for record in found if _name(record) == name and record.strategy == strategy]
            points = {int(record.mix.split(":")[1]) for record in mine}
            _line(axes, strategy, sorted(points), mine, lambda r: float(r.mix.split(":")[1]), lambda r: r.cpu_seconds)
        axes.set(yscale="log", title=name, xlabel="first touched slice", ylabel="processor seconds")
        _legend(axes)
    return _svg(figure)


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
        _legend(axes)
    return _svg(figure)


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
        axes.plot(points, means, marker=".", lw=1, color=_COLOURS[strategy], label=strategy)


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


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axes.legend(once.values(), once.keys(), fontsize=6)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "hybridmu", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


FIGURES: dict[str, Callable[[Path], str]] = {
    "accuracy_against_share": accuracy_against_share,
    "cost_against_share": cost_against_share,
    "crossover": crossover,
    "gap_against_share": gap_against_share,
    "speed_against_gap": speed_against_gap,
}
