"""Tables of docs/scale.md and its figure, from the CSV files alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.study import csvfile, foreseen
from benchmarks.study.limits import Limit
from benchmarks.study.scaling import Point
from benchmarks.study.study_tables import table
from hybridmu.report.svg_plots import svg

# The goal of the project: how far the simulator may be off.
ERROR = 0.10
Group = tuple[str, str, int, int, int, float]


def points(folder: Path, experiment: str) -> str:
    """Return one experiment: measured and predicted, medians over seeds."""
    lines = []
    groups = _groups(folder, experiment)
    for (_, kind, shards, workers, nodes, load), mine in groups.items():
        alone = next(
            (own for key, own in groups.items() if key[1] == kind and key[3] == 1 and (key[2] == shards)), None
        )
        measured, predicted = _middle(mine, lambda p: p.measured), _middle(mine, lambda p: p.predicted)
        line = [kind, str(shards), str(workers), f"{load:g}", str(len(mine))]
        if experiment == "nodes":
            line[2] = str(nodes)
        line += [f"{measured:.2f} s", f"{predicted:.2f} s", f"{100 * statistics.median(_off(mine)):+.0f} %"]
        if experiment == "rate":
            middle, foreseen = _middle(mine, lambda p: p.median), _middle(mine, lambda p: p.predicted_median)
            off = statistics.median(p.predicted_median / p.median - 1 for p in mine)
            line += [f"{middle:.2f} s", f"{foreseen:.2f} s", f"{100 * off:+.0f} %"]
        elif alone:
            line.append(f"{_middle(alone, lambda p: p.measured) / measured:.2f}x")
        else:
            line.append("")
        lines.append(tuple(line))
    many = "nodes" if experiment == "nodes" else "workers"
    head = ["kind", "shards", many, "requests per second" if experiment == "rate" else "rows", "seeds"]
    if experiment == "rate":
        head += ["measured, p95", "predicted", "off", "measured, p50", "predicted", "off"]
    else:
        head += ["measured", "predicted", "off", "faster than one"]
    return table(tuple(head), lines)


def judged(folder: Path, _: str) -> str:
    """Return how far the simulator is off, per experiment and kind: each seed by its own prediction."""
    lines = []
    found = csvfile.read(folder / "scale.csv", Point)
    for experiment, kind in dict.fromkeys((p.experiment, p.kind) for p in found):
        groups = [own for key, own in _groups(folder, experiment).items() if key[1] == kind]
        off = [abs(statistics.median(_off(g))) for g in groups]
        worst = max(abs(each) for g in groups for each in _off(g))
        hours = [abs(statistics.median(p.predicted_device_seconds / p.device_seconds - 1 for p in g)) for g in groups]
        lines.append((
            experiment,
            kind,
            str(len(groups)),
            f"{100 * statistics.median(off):.0f} %",
            f"{100 * max(off):.0f} %",
            f"{100 * worst:.0f} %",
            f"{100 * max(hours):.0f} %",
            "**met**" if max(off) <= ERROR else f"missed by {sum(each > ERROR for each in off)} of {len(off)}",
        ))
    head = (
        "experiment",
        "kind",
        "points",
        "seconds off, median",
        "worst",
        "worst seed",
        "device-seconds off, worst",
        "at most 10 %",
    )
    return table(head, lines)


def steps(folder: Path, _: str) -> str:
    """Return how long single steps take as systems grow."""
    lines = [
        (limit.step, f"{limit.shards:,}", f"{limit.ids:,}", f"{limit.seconds:.3g} s")
        for limit in sorted(
            csvfile.read(folder / "limits.csv", Limit), key=lambda each: (each.step, each.shards, each.ids)
        )
    ]
    return table(("step", "shards", "rows or ids", "seconds"), lines)


def machine(folder: Path, _: str) -> str:
    """Return what measured."""
    measured, limits = csvfile.read(folder / "scale.csv", Point), csvfile.read(folder / "limits.csv", Limit)
    lines = sorted(
        {(p.hardware, p.versions, p.commit) for p in measured}
        | {(one.hardware, one.versions, one.commit) for one in limits}
    )
    return table(("hardware", "versions", "commit"), lines)


def draw(folder: Path) -> str:
    """Return measured points and predicted lines, per experiment."""
    found = csvfile.read(folder / "scale.csv", Point)
    names = list(dict.fromkeys(point.experiment for point in found)) or ["nothing measured"]
    figure = Figure(figsize=(4.2 * len(names), 3.6), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        groups = _groups(folder, name)
        for number, kind in enumerate(dict.fromkeys(key[1] for key in groups)):
            mine = sorted((key[4] if name == "nodes" else key[3], own) for key, own in groups.items() if key[1] == kind)
            at, colour = [workers for workers, _ in mine], f"C{number}"
            axes.plot(
                at, [_middle(own, lambda p: p.predicted) for _, own in mine], color=colour, label=f"{kind}, predicted"
            )
            for workers, own in mine:
                axes.scatter(
                    [workers] * len(own), [p.measured for p in own], s=14, color=colour, label=f"{kind}, measured"
                )
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), fontsize=6)
        axes.set(title=name, xlabel="nodes" if name == "nodes" else "workers", ylabel="seconds", ylim=(0, None))
    return svg(figure)


def _groups(folder: Path, experiment: str) -> dict[Group, list[Point]]:
    groups: dict[Group, list[Point]] = {}
    for p in csvfile.read(folder / "scale.csv", Point):
        if p.experiment == experiment:
            groups.setdefault((p.experiment, p.kind, p.shards, p.workers, p.nodes, p.load), []).append(p)
    return dict(sorted(groups.items()))


def _off(found: Sequence[Point]) -> list[float]:
    """Return how far each seed's prediction is from what was measured of it; other seeds are other requests."""
    return [point.predicted / point.measured - 1 for point in found]


def _middle(found: Sequence[Point], value: Callable[[Point], float]) -> float:
    return statistics.median(map(value, found))


TABLES: dict[str, Callable[[Path, str], str]] = {
    "points": points,
    "judged": judged,
    "foreseen": lambda folder, _: table(foreseen.HEAD, foreseen.lines(folder)),
    "steps": steps,
    "machine": machine,
}
