"""Figures of the boundary: time and forget-loss gap of retraining and of updates, against one thing that is varied."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study import records
from benchmarks.study.comparison import noise_of
from benchmarks.study.drawing import colour_of, legend
from benchmarks.study.grid import SETUPS, Setup
from benchmarks.study.records import Record
from hybridmu.report.svg_plots import svg

_EXACT = "sisa"
_UPDATES = ("dpus", "dpus-optimised", "dpus-newton")
_SHOWN = (_EXACT, *_UPDATES, "hybrid")
# The deletion that is looked at where something else than it is varied.
_SHARE, _FIRST = "0.01", "1"


def revoked(folder: Path) -> str:
    """Return time and gap against the share of revoked rows, the first slice among them."""

    def fits(record: Record, base: Setup) -> bool:
        return _shape(record) == _shape(base) and _first(record) == _FIRST

    return _draw(folder, lambda r: 100 * float(_share(r)), fits, "% of the rows revoked", log=True)


def first_slice(folder: Path) -> str:
    """Return time and gap against the first touched slice, at 1 % of the rows."""

    def fits(record: Record, base: Setup) -> bool:
        same = (record.shards, record.epochs) == (base.shards, base.epochs) and record.slices >= base.slices
        return same and _share(record) == _SHARE

    return _draw(folder, lambda r: int(_first(r)), fits, "first touched slice")


def shards(folder: Path) -> str:
    """Return time and gap against S, at 1 % of the rows from the first slice on."""
    return _draw(folder, lambda r: r.shards, _varied("shards"), "shards", log=True)


def slices(folder: Path) -> str:
    """Return time and gap against R, at 1 % of the rows from the first slice on."""
    return _draw(folder, lambda r: r.slices, _varied("slices"), "slices", log=True)


def epochs(folder: Path) -> str:
    """Return time and gap against the epochs, at 1 % of the rows from the first slice on."""
    return _draw(folder, lambda r: r.epochs, _varied("epochs"), "epochs", log=True)


def crossings(exact: Sequence[tuple[float, float]], update: Sequence[tuple[float, float]]) -> list[float]:
    """Return where two curves cross, by straight lines between the points that both have.

    Args:
        exact: (x, seconds) of the retrain.
        update: The same of an update.

    Example:
        >>> crossings([(1, 4.0), (3, 0.0)], [(1, 1.0), (3, 1.0)])
        [2.5]
    """
    other = dict(update)
    apart = [(x, seconds - other[x]) for x, seconds in sorted(exact) if x in other]
    found = []
    for (low, before), (high, after) in pairwise(apart):
        if before * after < 0:
            found.append(low + (high - low) * before / (before - after))
    return found


def _draw(
    folder: Path,
    x: Callable[[Record], float],
    fits: Callable[[Record, Setup], bool],
    label: str,
    *,
    log: bool = False,
) -> str:
    """Return a figure: time above, gap below; one column per dataset, and per R where more than one fits."""
    found = [r for r in records.read(folder / "boundary.csv") if r.mix.startswith("from:")]
    columns: dict[str, list[Record]] = {}
    for record in found:
        base = SETUPS[f"{record.dataset}/{record.model}"]
        if fits(record, base):
            shape = "" if label == "slices" else f", R={record.slices}"
            columns.setdefault(f"{record.dataset}/{record.model}{shape}", []).append(record)
    columns = columns or {"nothing measured": []}
    figure = Figure(figsize=(5.2 * len(columns), 7), layout="constrained")
    every = figure.subplots(2, len(columns), squeeze=False)
    for number, (name, mine) in enumerate(columns.items()):
        above, below = every[0][number], every[1][number]
        means = {s: _line(above, s, mine, x, lambda r: r.wall_seconds) for s in _SHOWN}
        for strategy in _UPDATES:
            for at in crossings(means[_EXACT], means[strategy]):
                above.axvline(at, color=colour_of(strategy), lw=0.8, ls=":")
        for strategy in (*_UPDATES, "hybrid"):
            _line(below, strategy, mine, x, lambda r: r.gap)
        _noise(below, mine, x)
        above.set(title=name, ylabel="seconds to applied", yscale="log")
        below.set(xlabel=label, ylabel="forget-loss gap")
        points = sorted({x(record) for record in mine})
        for axes in (above, below):
            axes.set_xscale("log" if log and mine else "linear")
            axes.set_xticks(points, [f"{point:g}" for point in points])
            axes.set_xticks([], minor=True)
    legend(figure, every.reshape(-1))
    return svg(figure)


def _line(
    axes: Axes, strategy: str, found: Iterable[Record], x: Callable[[Record], float], y: Callable[[Record], float]
) -> list[tuple[float, float]]:
    """Draw the mean over seeds, and from the least to the greatest; return the means."""
    mine: dict[float, list[float]] = {}
    for record in found:
        if record.strategy == strategy and not math.isnan(y(record)):
            mine.setdefault(x(record), []).append(y(record))
    points = sorted(mine)
    means = [statistics.mean(mine[at]) for at in points]
    if points:
        colour = colour_of(strategy)
        axes.plot(points, means, marker=".", lw=1, color=colour, label=strategy)
        axes.fill_between(
            points, [min(mine[p]) for p in points], [max(mine[p]) for p in points], color=colour, alpha=0.1
        )
    return list(zip(points, means, strict=True))


def _noise(axes: Axes, found: Sequence[Record], x: Callable[[Record], float]) -> None:
    """Draw twice the oracle's own noise as a band."""
    points = sorted({x(record) for record in found})
    band = [2 * noise_of([record for record in found if x(record) == point]) for point in points]
    if points:
        axes.fill_between(
            points, [-each for each in band], band, color=colour_of("oracle-again"), alpha=0.25, label="2 noises"
        )


def _varied(name: str) -> Callable[[Record, Setup], bool]:
    def fits(record: Record, base: Setup) -> bool:
        others = [field for field in ("shards", "slices", "epochs") if field != name]
        same = all(getattr(record, field) == getattr(base, field) for field in others)
        return same and _share(record) == _SHARE and _first(record) == _FIRST

    return fits


def _shape(given: Record | Setup) -> tuple[int, int, int]:
    return given.shards, given.slices, given.epochs


def _first(record: Record) -> str:
    return record.mix.split(":")[1]


def _share(record: Record) -> str:
    return record.mix.split(":")[2]
