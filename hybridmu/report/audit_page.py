"""The page of an audit: every figure beside its controls, in a sentence that needs no statistics, and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridmu.report.html_page import Cell, Mark, render
from hybridmu.report.measured_times import duration
from hybridmu.report.svg_plots import BLUE, GREY, ORANGE, PALE, themed

# A line of its own beside the colour, for those who don't tell colours.
_STYLES: Mapping[str, Mapping[str, Any]] = {
    "unlearned": {"color": ORANGE, "ls": "-"},
    "oracle": {"color": BLUE, "ls": "--"},
    "nothing": {"color": GREY, "ls": ":"},
    "reference": {"color": PALE, "ls": "-."},
}
_MARKS: Mapping[str, Mark] = {"like the oracle": "good", "between": "middle", "inconclusive": "middle"}
_NAMES = {
    "unlearned": "unlearned",
    "oracle": "never saw them",
    "nothing": "did nothing",
    "reference": "never saw them (2nd)",
}
_NO_TEST = "There are no test rows in these shards."
_ROWS = {"forget": "forgotten rows", "retain": "rows that stay", "unseen": "test rows"}

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One figure.

    Attributes:
        name: What it is called.
        unlearned: Of the audited strategy.
        oracle: Of the control that never saw the rows: what is ideal.
        nothing: Of the control that still knows them.
        sentence: What it says.
    """

    name: str
    unlearned: str
    oracle: str
    nothing: str
    sentence: str


def page(report: Report) -> str:
    """Return the report of `System.audit` as one HTML page without outside references."""
    found = report["figures"]
    return render(
        "audit.html.j2",
        headline=headline(report),
        mark=_MARKS.get(report["verdict"], "bad"),
        report=report,
        strategy=strategy(report),
        lines=[[line.name, line.unlearned, line.oracle, line.nothing, line.sentence] for line in lines(report)],
        telling=_telling(report),
        served=served(report),
        limits=limits(report),
        shards=[
            [
                *(str(shard[name]) for name in ("shard", "rows", "canaries", "strategy")),
                f"{shard['alpha']:.3g}",
                "; ".join(shard["reasons"]),
            ]
            for shard in report["shards"]
        ],
        svgs=[roc(found), klom(found), losses(found)],
        took=duration(report["seconds"]),
    )


def _telling(report: Report) -> Cell:
    if report["telling"]:
        return Cell(
            "Here the two controls are told apart, so the audit would have noticed a strategy that does nothing.",
            "good",
        )
    return Cell(
        "Here the two controls are not surely told apart: the audit might not notice a strategy that does nothing.",
        "bad",
    )


def strategy(report: Report) -> str:
    """Return what was audited: the strategy asked for, or those that the planner chose."""
    return " and ".join(dict.fromkeys(shard["strategy"] for shard in report["shards"]))


def headline(report: Report) -> str:
    """Return the verdict in words, with how often the attack is right."""
    made, never = f"Models that {strategy(report)} made", "models that never saw the rows"
    if report["verdict"] == "inconclusive":
        return (
            f"This audit says nothing yet: even models that did nothing are not surely told from {never}"
            f"{_attacked(report, 'nothing')}. Ask for more models, a larger share of rows, or more shards."
        )
    attack = _attacked(report, "unlearned")
    if report["verdict"] == "like the oracle":
        return f"{made} can't be told from {never}, as far as this audit sees{attack}."
    surely = "less surely than" if report["verdict"] == "between" else "as surely as"
    return f"{made} are told from {never}, {surely} models that did nothing{attack}. {_knows(report)}"


def _attacked(report: Report, kind: str) -> str:
    """Return how often the attack is right about models of a kind; nothing where that can't be measured."""
    auc = report["figures"]["auc"]
    if math.isnan(auc[kind]):
        return ""
    others = "" if kind == "nothing" else f"; about models that did nothing: {_percent(auc['nothing'])}"
    return f": the attack is right about them in {_percent(auc[kind])} of all cases (guessing: 50 %{others})"


def _knows(report: Report) -> str:
    gap, chance, left = report["figures"]["gap"]["unlearned"], report["figures"]["chance"], report["left"]
    if gap > chance:
        return (
            "They know less of the rows, not more: what shows is that they were changed. Until the exact repair it may"
            " give away that somebody was forgotten."
        )
    if gap >= -chance:
        return "On average they know no more of the rows; single rows may show, until the exact repair."
    share = "" if math.isnan(left) else f" ({_percent(left)} of what models that did nothing know more)"
    return f"They still know more of the rows{share}. Treat the rows as partly remembered until the exact repair."


def lines(report: Report) -> list[Line]:
    """Return the figures, each with what it says."""
    found = report["figures"]
    useful = _useful(found, report["figure"])
    return [*_attack(found), *_remembered(found), *(_distance(found, rows) for rows in _ROWS), *useful]


def _attack(found: Report) -> list[Line]:
    auc, low, high = (_percent(found[name]["unlearned"]) for name in ("auc", "auc_low", "auc_high"))
    made = [
        _line(
            "attack: area under the curve",
            found["auc"],
            "{:.3f}",
            "Shown two models, one that unlearned a row and one that never saw it, the attacker picks the right one in"
            f" {auc} of all cases (guessing: 50 %). Other models would give {low} to {high}, in 19 of 20 audits.",
        )
    ]
    allowances = (("tpr_at_one", "1 %", "a hundred", 100), ("tpr_at_tenth", "0.1 %", "a thousand", 1000))
    for name, share, often, needed in allowances:
        hits = _percent(found[name]["unlearned"])
        made.append(
            _line(
                f"attack: rows found at {share} false alarms",
                found[name],
                "{:.1%}",
                f"Allowed one false alarm in {often} guesses about rows that were never there, the attacker recognises"
                f" {hits} of the unlearned ones (guessing: {share}).",
                f"It takes {needed:,} guesses about models that never saw a row; there are {found['guesses']:,}.",
            )
        )
    return made


def _remembered(found: Report) -> list[Line]:
    gap, noise, chance, relearn = (found[name] for name in ("gap", "noise", "chance", "relearn"))
    away = abs(gap["unlearned"])
    return [
        _line(
            "forget-loss gap",
            gap,
            "{:+.4f}",
            f"Unlearned models are {'less sure' if gap['unlearned'] > 0 else 'surer'} about the forgotten rows than"
            f" models that never saw them, by {away:.4f} on average: that {'may be' if away <= chance else 'is not'}"
            f" chance (up to {chance:.4f}). Two single models that never saw them differ by {noise:.4f}.",
        ),
        _line(
            "epochs to learn them again",
            relearn,
            "{:.1f}",
            f"Shown the rows again, unlearned models know them as before after {relearn['unlearned']:.1f} rounds;"
            f" models that never saw them need {relearn['oracle']:.1f}. Fewer rounds mean that something was left.",
        ),
    ]


def _distance(found: Report, rows: str) -> Line:
    control, known = found["klom"][rows]["oracle"], found["klom"][rows]["nothing"]
    floor, tail = _number(control, "{:.2f}"), _number(found["klom_tail"][rows]["unlearned"], "{:.2f}")
    few = " So few models can't show a distance: ask for 100." if rows == "forget" and known < 1.2 * control else ""
    return _line(
        f"KLoM, {_ROWS[rows]}: mean",
        found["klom"][rows],
        "{:.2f}",
        f"How far the answers on {_ROWS[rows]} are from those of models that never saw the forgotten ones, row by row;"
        f" one row in twenty is {tail} away or more. With {found['models']} models of each kind, two sets of equal"
        f" models are {floor} apart.{few}",
        _NO_TEST,
    )


def _useful(found: Report, figure: str) -> list[Line]:
    return [
        _line(
            f"ToW (1: every {figure} is the oracle's)",
            found["tow"],
            "{:.3f}",
            f"One number for {figure} on forgotten rows, rows that stay and test rows together.",
        ),
        _line(
            f"test {figure} minus the oracle's",
            found["accuracy"],
            "{:+.2%}" if figure == "accuracy" else "{:+.4f}",
            f"What the strategy costs in {figure}, per sub-model; the ensemble evens some of it out.",
            _NO_TEST,
        ),
    ]


def served(report: Report) -> list[str]:
    """Return what is known of rows that were really revoked."""
    said = [_asked(shard, report["figure"]) for shard in report["served"] if shard["found"] is not None]
    if not said and report["purged_requests"]:
        return [
            f"{report['purged_requests']} request(s) are purged: their rows are gone, so the served model can't be"
            " asked about them any more, by anyone. Their certificates say how they were removed; the canaries above"
            " stand for rows like them."
        ]
    return said or ["No row was revoked that is still in the tables of these shards."]


def _asked(shard: Report, figure: str) -> str:
    found = shard["found"]
    kind = "exact" if shard["exact"] else "approximate, an exact repair is owed"
    gap, surer = f"{found['gap']:+.4f}", _percent(found["surer"])
    if not math.isnan(found["gap_before"]):
        gap += f" ({found['gap_before']:+.4f} before their removal)"
        surer += f" of them ({_percent(found['surer_before'])} before)"
    return (
        f"Shard {shard['shard']} ({kind}): {found['rows']} revoked row(s) are still in its table. The served"
        f" sub-model's loss on them differs from the exact retrain's by {gap}; models that never saw them spread by"
        f" {found['noise']:.4f}. It is surer than every such model on {surer}, less sure than every one on"
        f" {_percent(found['less_sure'])}; chance gives {_percent(found['chance'])} each. It learns them again in"
        f" {found['relearn']} round(s), the exact retrain in {found['relearn_oracle']}. {figure.capitalize()}: ToW"
        f" {found['tow']:.3f}; test {found['accuracy']:+.2%}."
    )


def limits(report: Report) -> list[str]:
    """Return what the audit can't say."""
    return [
        "A failed attack is no proof: a better one may exist. This one is strong: it knows data, training and strategy,"
        f" has {report['models']} models of each kind, and sees the sub-models' own outputs, which outsiders don't.",
        "Canaries are drawn evenly from live rows. Rows unlike most (outliers, a whole class, a person with very many)"
        " may be harder to forget.",
        "It speaks of one removal on a fresh model. What several removals add up to before an exact repair is bounded"
        " by policy.quality_budget, and not measured here.",
        f"It speaks of {len(report['shards'])} of {report['shards_in_all']} sub-models, not of the ensemble's answers.",
        "It can't see copies, logs, or answers given earlier. Exact removals need no such audit: `hybridmu verify`"
        " compares them bit for bit, and certificates prove them.",
    ]


# ---------------------------------------------------------------------- plots


def roc(figures: Report) -> str:
    """Return the ROC curves of the attack on strategy and controls, logarithmic, as SVG."""
    figure, axes = _axes("Attack: who is told from models that never saw the rows?")
    least = 1 / max(2, figures["guesses"])
    axes.plot([least, 1], [least, 1], color=GREY, lw=0.8, label="guessing")
    for kind, curve in figures["roc"].items():
        axes.plot(curve["false"], curve["true"], lw=1.5, label=_NAMES[kind], **_STYLES[kind])
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.1))
    axes.set(xlabel="false alarms", ylabel="rows found")
    axes.legend(fontsize=8)
    return themed(figure, "rows found against false alarms, of the strategy and of the controls")


def klom(figures: Report) -> str:
    """Return the distribution of KLoM over forgotten rows, as SVG."""
    figure, axes = _axes("KLoM of the forgotten rows")
    for kind, values in figures["klom_rows"].items():
        shares = [(number + 1) / len(values) for number in range(len(values))]
        axes.step([0.0, *values], [0.0, *shares], where="post", lw=1.5, label=_NAMES[kind], **_STYLES[kind])
    axes.set(xlabel="distance from models that never saw them (left is nearer)", ylabel="share of the rows")
    axes.legend(fontsize=8)
    return themed(figure, "distribution of KLoM over the forgotten rows, of the strategy and of the controls")


def losses(figures: Report) -> str:
    """Return the forget loss of every shadow model, as SVG."""
    figure, axes = _axes("Loss on the forgotten rows, one point per model")
    kinds = [kind for kind in ("nothing", "unlearned", "oracle", "reference") if kind in figures["losses"]]
    for line, kind in enumerate(kinds):
        values: Sequence[float] = figures["losses"][kind]
        axes.scatter(values, [line] * len(values), s=14, alpha=0.6, color=_STYLES[kind]["color"])
    axes.set_yticks(range(len(kinds)), [_NAMES[kind] for kind in kinds], fontsize=8)
    axes.set(xlabel="mean loss", ylim=(-0.5, len(kinds) - 0.5))
    return themed(figure, "mean loss of every shadow model on the forgotten rows")


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes


def _line(name: str, figure: Mapping[str, float], form: str, sentence: str, unmeasured: str = "") -> Line:
    unlearned, oracle, nothing = (_number(figure[kind], form) for kind in ("unlearned", "oracle", "nothing"))
    return Line(name, unlearned, oracle, nothing, unmeasured if math.isnan(figure["unlearned"]) else sentence)


def _number(value: float, form: str) -> str:
    return "not measured" if math.isnan(value) else form.format(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
