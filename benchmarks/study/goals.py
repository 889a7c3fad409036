"""The headline: updates for 1 % to 10 % of the rows, other mixes, and exact deletions of single rows and people."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.study import records
from benchmarks.study.comparison import FASTER, Comparison, compare, geometric_mean, rms
from benchmarks.study.records import Record

Row = Sequence[str]
_SHARES = ("share:0.01", "share:0.05", "share:0.1")
_SHOWN = ("hybrid", "dpus", "dpus-newton", "dpus-optimised")
_SINGLES = ("rows:1", "users:1")


def goals(folder: Path) -> tuple[Row, list[Row]]:
    """Return, per system and strategy, what it reaches for 1 %, 5 % and 10 % of the rows."""
    lines: list[Row] = []
    for system, found in _systems(folder):
        accuracy = statistics.mean(r.oracle_accuracy for r in found if r.mix in _SHARES)
        label = f"{system}, {100 * accuracy:.1f} %"
        for name in _SHOWN:
            cells = [compare([r for r in found if r.mix == mix], name) for mix in _SHARES]
            if any(cells):
                seeds = max(len(cell.gaps) for cell in cells if cell)
                lines.append((label, name, str(seeds), *(_cell(cell) if cell else "" for cell in cells)))
                label = ""
    return ("system, accuracy of the oracle", "strategy", "seeds", "1 % of the rows", "5 %", "10 %"), lines


def hybrid(folder: Path) -> tuple[Row, list[Row]]:
    """Return the hybrid alone, in short: for 1 %, 5 % and 10 % of the rows."""
    lines: list[Row] = []
    for system, found in _systems(folder):
        every = [compare([r for r in found if r.mix == mix], "hybrid") for mix in _SHARES]
        cells = [cell for cell in every if cell]
        if len(cells) < len(_SHARES):
            continue
        speeds = [(geometric_mean(cell.wall), geometric_mean(cell.processor)) for cell in cells]
        missed = [goal for goal in ("time", "accuracy", "gap") if any(goal in cell.missed for cell in cells)]
        lines.append((
            f"{system}, {max(r.rows for r in found):,} rows",
            str(min(len(cell.gaps) for cell in cells)),
            *(f"**{a:.1f} / {b:.1f}**" if min(a, b) >= FASTER else f"{a:.1f} / {b:.1f}" for a, b in speeds),
            f"{min(statistics.mean(cell.points) for cell in cells):+.2f}",
            ", ".join(f"{rms(cell.gaps):.4f}" for cell in cells),
            ", ".join(f"{cell.off:.1f}" for cell in cells),
            ", ".join(f"{geometric_mean(cell.repaired):.1f}" for cell in cells),
            ", ".join(missed) or "none",
        ))
    gaps = ("forget-loss gaps, nats", "the same in noises")
    device = "times fewer device-seconds, repairs added"
    figures = ("points of accuracy, worst of the three", *gaps, device, "goals missed")
    return ("system", "seeds", "1 % of the rows", "5 %", "10 %", *figures), lines


def mixes(folder: Path) -> tuple[Row, list[Row]]:
    """Return what the hybrid reaches on the other mixes, with the share of the rows that each names."""
    lines: list[Row] = []
    for system, found in _systems(folder):
        label = system
        for mix in dict.fromkeys(r.mix for r in found if r.mix not in _SHARES and not r.mix.startswith("stream:")):
            mine = [r for r in found if r.mix == mix]
            if cell := compare(mine, "hybrid"):
                shares = [100 * r.revoked / r.rows for r in mine if r.strategy == "hybrid"]
                share = f"{statistics.mean(shares):.2g} %"
                lines.append((label, mix, share, str(len(cell.gaps)), *_short(cell)))
                label = ""
    head = ("system", "mix", "of the rows", "seeds", "faster, wall / processor", "points", "gap", "in noises", "goals")
    return head, lines


def singles(folder: Path) -> tuple[Row, list[Row]]:
    """Return by how much the exact deletion of single rows and people beats retraining everything from scratch."""
    lines: list[Row] = []
    every = [r for name in ("headline", "singles") for r in records.read(folder / f"{name}.csv")]
    for system, found in _grouped(every, lambda r: f"{r.dataset}/{r.model}, S={r.shards}"):
        label = system
        for mix in _SINGLES:
            group = [r for r in found if r.mix == mix]
            whole = {r.seed: r for r in group if r.strategy == "scratch"}
            exact = [r for r in group if r.strategy == "sisa" and r.seed in whole]
            if exact:
                pairs = [(whole[r.seed], r) for r in exact]
                saved, seconds = _saved(pairs, lambda r: r.device_seconds)
                touched = f"{statistics.mean(r.touched for r in exact):.1f}"
                bits = f"{sum(r.bitwise for r in exact)}/{sum(r.touched for r in exact)}"
                visits = _saved(pairs, lambda r: r.visits)[1]
                verdict = "**met**" if saved >= FASTER else "missed"
                accuracy = f"{100 * statistics.mean(r.accuracy for r in exact):.1f} %"
                lines.append((label, mix, str(len(exact)), accuracy, touched, seconds, visits, bits, verdict))
                label = ""
    columns = ("device-seconds, scratch over exact deletion", "the same in visits", "bits", f"{FASTER:g}x")
    return ("system", "mix", "seeds", "accuracy", "shards touched", *columns), lines


def _saved(pairs: Sequence[tuple[Record, Record]], cost: Callable[[Record], float]) -> tuple[float, str]:
    """Return what all scratch trainings cost over what all exact deletions cost; in brackets per seed."""
    ratios = [cost(whole) / cost(exact) for whole, exact in pairs]
    total = sum(cost(whole) for whole, _ in pairs) / sum(cost(exact) for _, exact in pairs)
    return total, f"{total:.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"


def _systems(folder: Path) -> Iterator[tuple[str, list[Record]]]:
    """Yield every system of the headline with its records."""
    return _grouped(records.read(folder / "headline.csv"), lambda r: f"{r.dataset}/{r.model}")


def _grouped(every: Sequence[Record], name: Callable[[Record], str]) -> Iterator[tuple[str, list[Record]]]:
    for system in dict.fromkeys(map(name, every)):
        yield system, [r for r in every if name(r) == system]


def _times(found: Comparison) -> str:
    return " / ".join(f"{geometric_mean(each):.1f}x" for each in (found.wall, found.processor))


def _short(found: Comparison) -> Row:
    return (
        _times(found),
        f"{statistics.mean(found.points):+.2f}",
        f"{rms(found.gaps):.4f}",
        f"{found.off:.1f}" if found.noise else "",
        found.verdict,
    )


def _cell(found: Comparison) -> str:
    points = f"{statistics.mean(found.points):+.2f} points [{min(found.points):+.1f}]"
    gap = f"gap {rms(found.gaps):.4f} ({statistics.mean(found.gaps):+.4f})"
    noises = f"{found.off:.1f} noises, {found.inside} of {len(found.gaps)} within"
    slowest = f"[{min(map(min, (found.wall, found.processor))):.1f}]"
    return f"{_times(found)} {slowest}, {points}, {gap}, {noises}: {found.verdict}"
