"""Table and figures of the audits, from `audits.csv` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study import audits
from benchmarks.study.audits import CONTROLS, STRATEGIES, AuditRecord
from benchmarks.study.drawing import colour_of
from hybridmu.core.audit import audit_report as core
from hybridmu.core.audit.audit_report import Findings
from hybridmu.core.audit.shadow_models import Shadow
from hybridmu.report.svg_plots import svg

FILE = "audits.csv"
_CONTROLS = {"oracle": "#20639b", "nothing": "#555555"}
Case = tuple[str, str]  # system, mix


def summed_up(folder: Path) -> dict[Case, dict[str, Findings]]:
    """Return (system, mix) → strategy → what its models say, over the numbers that all of a case have."""
    cases: dict[Case, dict[str, dict[int, AuditRecord]]] = {}
    for record in audits.read(folder / FILE):
        made = cases.setdefault((_system(record), record.mix), {})
        made.setdefault(record.strategy, {})[record.number] = record
    found: dict[Case, dict[str, Findings]] = {}
    for case, made in cases.items():
        if not set(CONTROLS) <= set(made):
            continue
        for name in (name for name in STRATEGIES if name in made):
            kinds = {"unlearned": name, **{control: control for control in CONTROLS}}
            numbers = sorted(set.intersection(*(set(made[kind]) for kind in kinds.values())))
            shadows = [Shadow(n, {k: made[kind][n].score for k, kind in kinds.items()}, {}) for n in numbers]
            if len(shadows) >= 3:  # what an attack needs
                found.setdefault(case, {})[name] = core.findings([shadows])
    return found


def table(folder: Path, _: str) -> str:
    """Return every strategy and both controls, per system and mix, as a Markdown table."""
    head = (
        "system",
        "mix",
        "strategy",
        "models",
        "forget-loss gap",
        "in noises",
        "KLoM, revoked rows: mean, 95th percentile",
        "KLoM, rows that stay",
        "KLoM, test rows",
        "attack's AUC",
        "found at 1 % false alarms",
        "at 0.1 %",
        "epochs to relearn",
        "ToW",
        "test accuracy minus oracle's, points",
        "verdict",
    )
    lines = [head, ("---",) * len(head)]
    for (system, mix), made in summed_up(folder).items():
        any_ = next(iter(made.values()))
        cells = [*((name, found, "unlearned", found.verdict) for name, found in made.items())]
        cells += [(name, any_, name, "control") for name in _CONTROLS]
        lines += [(system, mix, name, *_cells(found, kind), verdict) for name, found, kind, verdict in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def klom(folder: Path) -> str:
    """Return mean KLoM per strategy and kind of row, with both controls as lines, as SVG."""
    figure, panels = _panels(summed_up(folder))
    for axes, made in panels:
        kinds = ("forget", "retain", "unseen")
        for place, name in enumerate(made):
            for shift, kind in enumerate(kinds):
                bar = made[name].klom[kind].unlearned
                axes.bar(place + 0.25 * (shift - 1), bar, 0.23, color=colour_of(name), alpha=1 - 0.35 * shift)
        for control, colour in _CONTROLS.items():
            level = getattr(next(iter(made.values())).klom["forget"], control)
            axes.axhline(level, color=colour, lw=1, label=f"{control}, revoked rows")
        axes.set_xticks(range(len(made)), list(made), fontsize=7, rotation=20)
        axes.set_ylabel("KLoM: revoked rows, rows that stay, test rows", fontsize=8)
        axes.legend(fontsize=7)
    return svg(figure)


def roc(folder: Path) -> str:
    """Return the attack's ROC curves, both axes logarithmic, as SVG."""
    figure, panels = _panels(summed_up(folder))
    for axes, made in panels:
        any_ = next(iter(made.values()))
        least = 1 / max(2, any_.guesses)
        axes.plot([least, 1], [least, 1], color="#bbbbbb", lw=1, ls="--", label="guessing")
        for name, found in made.items():
            curve = found.roc["unlearned"]
            axes.plot(curve.false, curve.true, lw=1.2, color=colour_of(name), label=name)
        for control, colour in _CONTROLS.items():
            axes.plot(any_.roc[control].false, any_.roc[control].true, lw=1.2, ls=":", color=colour, label=control)
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.1))
        axes.set(xlabel="false alarms", ylabel="revoked rows found")
        axes.legend(fontsize=6)
    return svg(figure)


def _cells(found: Findings, kind: str) -> tuple[str, ...]:
    def of(figure: core.Figure, form: str) -> str:
        value = float(getattr(figure, kind))
        return "" if math.isnan(value) else form.format(value)

    gap = abs(float(getattr(found.gap, kind)))
    return (
        str(found.models),
        of(found.gap, "{:+.4f}"),
        f"{gap / found.noise:.1f}" if found.noise else "",
        f"{of(found.klom['forget'], '{:.2f}')}, {of(found.klom_tail['forget'], '{:.2f}')}",
        of(found.klom["retain"], "{:.2f}"),
        of(found.klom["unseen"], "{:.2f}"),
        f"{of(found.auc, '{:.3f}')} [{of(found.auc_low, '{:.3f}')}, {of(found.auc_high, '{:.3f}')}]",
        of(found.tpr_at_one, "{:.1%}"),
        of(found.tpr_at_tenth, "{:.2%}"),
        of(found.relearn, "{:.1f}"),
        of(found.tow, "{:.3f}"),
        "" if math.isnan(getattr(found.accuracy, kind)) else f"{100 * getattr(found.accuracy, kind):+.2f}",
    )


def _system(record: AuditRecord) -> str:
    return f"{record.dataset}/{record.model} S={record.shards} R={record.slices} epochs={record.epochs}"


def _panels(cases: dict[Case, dict[str, Findings]]) -> tuple[Figure, Sequence[tuple[Axes, dict[str, Findings]]]]:
    count = max(1, len(cases))
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(6 * columns, 4 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for unused in every[len(cases) :]:
        unused.set_axis_off()
    panels = list(zip(every, cases.items(), strict=False))
    for axes, ((system, mix), _) in panels:
        axes.set_title(f"{system}, {mix}", fontsize=9)
    return figure, [(axes, made) for axes, (_, made) in panels]
