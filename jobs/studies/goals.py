"""The headline in two tables: updates for 1 % to 10 % of the rows, and exact deletions of single rows and people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jobs.studies import records
from jobs.studies.records import Record

Row = Sequence[str]
# Times faster than always retraining, points of accuracy, multiples of the oracle's own noise.
FASTER, POINTS, NOISES = 8.0, 0.5, 2.0
_SHARES = ("share:0.01", "share:0.05", "share:0.1")
_SHOWN = ("hybrid", "dpus", "dpus-newton", "dpus-optimised")
_SINGLES = ("rows:1", "users:1")


def missed(
    wall: Sequence[float], processor: Sequence[float], points: Sequence[float], gaps: Sequence[float], noise: float
) -> list[str]:
    """Return which goals a strategy misses.

    Args:
        wall: Times faster than the retrain by the clock, per seed.
        processor: The same by processor time.
        points: Accuracy minus the oracle's, in points.
        gaps: Forget-loss gaps.
        noise: Of the oracle.

    Example:
        >>> missed([9.0, 9.0], [7.0, 8.0], [-0.1, -0.2], [0.01, 0.03], 0.01)
        ['time']
    """
    found = []
    if min(map(statistics.geometric_mean, (wall, processor))) < FASTER:
        found.append("time")
    if statistics.mean(points) < -POINTS:
        found.append("accuracy")
    if abs(statistics.mean(gaps)) > NOISES * noise:
        found.append("gap")
    return found


def noise_of(group: Iterable[Record]) -> float:
    """Return the root mean square over seeds of the forget-loss difference between two oracles."""
    gaps = {record.seed: record.noise_gap for record in group}
    return math.sqrt(statistics.mean(gap * gap for gap in gaps.values()))


def goals(folder: Path) -> tuple[Row, list[Row]]:
    """Return, per system and strategy, what it reaches for 1 %, 5 % and 10 % of the rows."""
    lines: list[Row] = []
    for system, found in _systems(folder):
        label = system
        for name in _SHOWN:
            cells, seeds = [], 0
            for mix in _SHARES:
                group = [r for r in found if r.mix == mix]
                exact = {r.seed: r for r in group if r.strategy == "sisa"}
                mine = [r for r in group if r.strategy == name and r.seed in exact]
                seeds = max(seeds, len(mine))
                cells.append(_cell(mine, exact, noise_of(group)) if mine else "")
            if any(cells):
                lines.append((label, name, str(seeds), *cells))
                label = ""
    return ("system", "strategy", "seeds", "1 % of the rows", "5 %", "10 %"), lines


def singles(folder: Path) -> tuple[Row, list[Row]]:
    """Return by how much the exact deletion of single rows and people beats retraining everything from scratch."""
    lines: list[Row] = []
    for system, found in _systems(folder):
        label = system
        for mix in _SINGLES:
            group = [r for r in found if r.mix == mix]
            whole = {r.seed: r for r in group if r.strategy == "scratch"}
            exact = [r for r in group if r.strategy == "sisa" and r.seed in whole]
            if exact:
                ratios = [whole[r.seed].device_seconds / r.device_seconds for r in exact]
                mean = statistics.geometric_mean(ratios)
                spread = f"{mean:.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"
                touched = f"{statistics.mean(r.touched for r in exact):.1f}"
                bits = f"{sum(r.bitwise for r in exact)}/{sum(r.touched for r in exact)}"
                lines.append((label, mix, str(len(exact)), touched, spread, bits, _verdict(mean >= FASTER)))
                label = ""
    head = ("system", "mix", "seeds", "shards touched", "device-seconds, scratch over exact deletion", "bits", "8x")
    return head, lines


def _systems(folder: Path) -> Iterator[tuple[str, list[Record]]]:
    """Yield every system of the headline with its records."""
    every = records.read(folder / "headline.csv")
    for system in dict.fromkeys(f"{r.dataset}/{r.model}" for r in every):
        yield system, [r for r in every if f"{r.dataset}/{r.model}" == system]


def _cell(mine: Sequence[Record], exact: dict[int, Record], noise: float) -> str:
    wall = [exact[r.seed].wall_seconds / r.wall_seconds for r in mine]
    processor = [exact[r.seed].cpu_seconds / r.cpu_seconds for r in mine]
    points = [100 * (r.accuracy - r.oracle_accuracy) for r in mine]
    gaps = [r.gap for r in mine]
    wrong = missed(wall, processor, points, gaps, noise)
    times = " / ".join(f"{statistics.geometric_mean(each):.1f}x" for each in (wall, processor))
    noises = f", {abs(statistics.mean(gaps)) / noise:.1f} noises" if noise else ""
    says = f"misses {', '.join(wrong)}" if wrong else "**met**"
    return f"{times}, {statistics.mean(points):+.2f} points, gap {statistics.mean(gaps):+.4f}{noises}: {says}"


def _verdict(ok: bool) -> str:
    return "**met**" if ok else "missed"
