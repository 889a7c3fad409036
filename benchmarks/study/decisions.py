"""Tables and a figure of the planner's decisions, replayed from the shards of `boundary.csv` and `headline.csv`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study import learned, regret, shards
from benchmarks.study.drawing import colour_of, legend
from benchmarks.study.records import Key
from benchmarks.study.regret import RETRAIN, UPDATES, Decided
from benchmarks.study.shards import ShardRecord
from hybridmu.planning import cost
from hybridmu.planning.cost import Estimate
from hybridmu.planning.planner import Policy
from hybridmu.report.svg_plots import svg
from hybridmu.types import CostObservation

# The planner's goals: relative excess over the best plan in hindsight, median and 95th percentile over deletions.
MEDIAN, HIGH = 0.05, 0.20
Head = Sequence[str]
Lines = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Decider:
    """A way to decide that is replayed.

    Attributes:
        name: In tables.
        policy: Of the planner; None: always `strategy`.
        strategy: What is always done.
        told: Whether the quality guard is told the measured gap of every update instead of what canaries predict.
    """

    name: str
    policy: Policy | None = None
    strategy: str = RETRAIN
    told: bool = False


DECIDERS = (
    Decider("always retrain"),
    *(Decider(f"always {name}", strategy=name) for name in UPDATES),
    Decider("one update, workload rule", Policy(approximate=("dpus-optimised",), workload_threshold=0.5)),
    Decider("one update", Policy(approximate=("dpus-optimised",))),
    Decider("any update, workload rule", Policy(workload_threshold=0.5)),
    Decider("any update (the default)", Policy()),
    Decider("any update, the fastest", Policy(fast_enough=1e9)),
    Decider("any update, twice the budget", Policy(quality_budget=0.2)),
    Decider("any update, told the gaps", Policy(), told=True),
)
_DEFAULT = next(one for one in DECIDERS if one.policy == Policy() and not one.told)


def decided(found: Sequence[ShardRecord], decider: Decider) -> list[Decided]:
    """Return what a decider does on every deletion that was measured by all strategies."""
    if decider.told:
        found = [replace(r, predicted_error=0.0 if math.isnan(r.gap) else abs(r.gap)) for r in found]
    if decider.policy:
        return regret.replay(found, decider.policy)
    always = dict.fromkeys
    return [
        Decided(one, always(one.shards, decider.strategy), always(one.shards, "always"))
        for one in regret.deletions(found)
    ]


def regrets(folder: Path, stem: str) -> tuple[Head, Lines]:
    """Return the regret of every decider, per dataset of `<stem>.csv`."""
    lines = []
    for dataset, found in _datasets(folder, stem):
        label = dataset
        for decider in DECIDERS:
            every = decided(found, decider)
            if not every:
                continue
            judged = [regret.judge(one) for one in every]
            floored = [regret.judge(one, Policy().fast_enough).regret for one in every]
            values = [one.regret for one in judged]
            median, high = float(np.median(values)), float(np.percentile(values, 95))
            shown = (median, high, max(values), float(np.median(floored)), float(np.percentile(floored, 95)))
            both = zip(every, judged, strict=True)
            pairs = [(one.chosen[shard], best) for one, seen in both for shard, best in seen.best.items()]
            failed = sum(len(one.inadmissible) for one in judged)
            rules = Counter(
                one.chosen[shard] if rule == "boundary" else rule for one in every for shard, rule in one.rules.items()
            )
            lines.append((
                label,
                decider.name,
                str(len(every)),
                *(f"{100 * value:.0f} %" for value in shown),
                f"{100 * sum(a == b for a, b in pairs) / len(pairs):.0f} %",
                f"{100 * failed / len(pairs):.1f} %",
                ", ".join(f"{rule} {number}" for rule, number in sorted(rules.items())),
                "**met**" if median <= MEDIAN and high <= HIGH else "missed",
            ))
            label = ""
    return (
        "system",
        "planner",
        "deletions",
        "median regret",
        "95th percentile",
        "worst",
        f"median, where {Policy().fast_enough:g} times faster is enough",
        "95th percentile of that",
        "shards decided as in hindsight",
        "shards beyond the budget",
        "updates, or rules that retrained",
        f"{100 * MEDIAN:.0f} %, {100 * HIGH:.0f} %",
    ), lines


def estimates(folder: Path, stem: str) -> tuple[Head, Lines]:
    """Return how well the cost model predicts seconds, before the first deletion and as it learns from all of them."""
    lines = []
    for dataset, found in _datasets(folder, stem):
        label = dataset
        made = list(_predictions(found))
        for name in (RETRAIN, *UPDATES, "rewind"):
            mine = [
                (r.seconds, cold, warm) for r, cold, warm in made if r.strategy == name and r.seconds and cold.seconds
            ]
            if mine:
                cold, warm = ([np.log(s / each[n].seconds) for s, *each in mine] for n in (0, 1))
                inside = [low.low <= seconds <= low.high for seconds, _, low in mine]
                figures = [f"{np.exp(np.median(each)):.2f}" for each in (cold, warm)]
                figures += [f"{np.exp(np.median(np.abs(each))):.2f}" for each in (cold, warm)]
                lines.append((label, name, str(len(mine)), *figures, f"{100 * np.mean(inside):.0f} %"))
                label = ""
    return (
        "system",
        "strategy",
        "jobs",
        "measured over estimated, before",
        "the same, learning",
        "typical factor off, before",
        "the same, learning",
        "inside the interval, learning",
    ), lines


def boundary_learned(folder: Path, stem: str) -> tuple[Head, Lines]:
    """Return wrong answers to "is the retrain more than κ times slower?", by method and budget of observations."""
    lines = []
    found = shards.read(shards.beside(folder / f"{stem}.csv"))
    for update in ("dpus-newton", "dpus-optimised"):
        given = learned.pairs(found, update)
        if not len(given.measured):
            continue
        # Where the planner asks, and where the question is hardest: at the median of the measured ratios.
        for kappa in (1.0, float(np.exp(np.median(given.measured)))):
            over = float(np.mean(given.measured > np.log(kappa)))
            label = f"{update}, κ = {kappa:.1f}: {100 * over:.0f} % over"
            for same in (True, False):
                for score in learned.compare(given, kappa, same=same):
                    wrong = {method: f"{100 * score.wrong[method]:.1f} %" for method in learned.METHODS}
                    spread = {method: f"{score.spread[method]:.2f}" for method in score.spread}
                    if not same:
                        wrong["refitted"] = spread["refitted"] = ""
                    pairs = "of the same system" if same else "of other systems"
                    lines.append((label, f"{score.budget} {pairs}", *wrong.values(), *spread.values()))
                    label = ""
    methods = learned.METHODS
    return (
        "question",
        "pairs learned from",
        *(f"{method}, wrong" for method in methods),
        *(f"{method}, error of the log ratio" for method in methods[:3]),
    ), lines


def regret_curves(folder: Path) -> str:
    """Return, per dataset of the boundary grid, which share of deletions stays below a regret."""
    systems = list(_datasets(folder, "boundary")) or [("nothing measured", [])]
    figure = Figure(figsize=(5.2 * len(systems), 4), layout="constrained")
    every = figure.subplots(1, len(systems), squeeze=False)[0]
    for axes, (dataset, found) in zip(every, systems, strict=True):
        for decider in DECIDERS:
            values = sorted(regret.judge(one).regret for one in decided(found, decider))
            if values:
                shares = np.arange(1, len(values) + 1) / len(values)
                style = _style(decider)
                axes.step([100 * v for v in values], shares, where="post", label=decider.name, **style)
        for goal, share in ((MEDIAN, 0.5), (HIGH, 0.95)):
            axes.plot([100 * goal], [share], marker="x", color="#999999")
        axes.set_xscale("symlog", linthresh=1)
        axes.set(title=dataset, xlabel="regret, %", ylabel="share of deletions")
    legend(figure, every)
    return svg(figure)


def _style(decider: Decider) -> dict[str, Any]:
    """Return a line: dotted in the strategy's own colour, or solid; the default's is wide, others may lie on it."""
    if decider.policy is None:
        always = "sisa" if decider.strategy == RETRAIN else decider.strategy
        return {"color": colour_of(always), "lw": 1.4, "ls": ":"}
    if decider == _DEFAULT:
        return {"color": "#000000", "lw": 3}
    planners = [one for one in DECIDERS if one.policy and one != _DEFAULT]
    return {"color": f"C{planners.index(decider)}", "lw": 1.2}


def _datasets(folder: Path, stem: str) -> Iterator[tuple[str, list[ShardRecord]]]:
    found = shards.read(shards.beside(folder / f"{stem}.csv"))
    for name in dict.fromkeys(f"{record.dataset}/{record.model}" for record in found):
        yield name, [record for record in found if f"{record.dataset}/{record.model}" == name]


def _predictions(found: Sequence[ShardRecord]) -> Iterator[tuple[ShardRecord, Estimate, Estimate]]:
    """Yield every measured job with its estimate before the first deletion, and after all deletions before its own."""
    seen: dict[Key, list[CostObservation]] = {}
    for record in found:
        if record.before:
            seen.setdefault(record.system, []).append(record.observation())
    cold = {system: cost.fit(observed) for system, observed in seen.items()}
    for deletion in regret.deletions(found):
        warm = cost.fit(seen[deletion.system])
        jobs = [record for shard in deletion.shards.values() for record in shard.values()]
        for record in jobs:
            work = record.observation()
            given = (work.strategy, work.visits, work.checkpoints, work.rows)
            yield record, cold[deletion.system].estimate(*given), warm.estimate(*given)
        seen[deletion.system] += [record.observation() for record in jobs]


FOUND: dict[str, Callable[[Path, str], tuple[Head, Lines]]] = {
    "estimates": estimates,
    "learned": boundary_learned,
    "regret": regrets,
}
