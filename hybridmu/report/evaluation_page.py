"""The page of an evaluation, per held-out table: metrics, confusion matrix and calibration curve, or residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridmu.core.metrics import METRICS, figure, name_of, shown
from hybridmu.report.html_page import render
from hybridmu.report.svg_plots import BLUE, GREY, PALE, themed

_MOST_CLASSES = 30  # whose names fit beside the matrix
_MOST_CONFUSIONS = 10
_SIZE = (4.8, 4.2)  # inches; on a phone letters stay as large as they are


def page(result: Mapping[str, Any]) -> str:
    """Return the result of `System.evaluate` as one HTML page without outside references."""
    target = result.get("target")
    shown_of = _of_classes if "classes" in result else _of_one if isinstance(target, str) else _of_several
    return render(
        "evaluation.html.j2",
        headline=headline(result),
        version=result["version"],
        targets=[target] if isinstance(target, str) else target,
        tables=[
            {"name": name, **found, **_figures(found), **shown_of(found, result)}
            for name, found in result["splits"].items()
        ],
    )


def headline(result: Mapping[str, Any]) -> str:
    """Return how right the answers are, in one sentence."""
    split, found = next(iter(sorted(result["splits"].items(), key=lambda one: one[0] != "test")))
    figures = found["ensemble"]
    told = [f"{METRICS[name].words} {figure(name, figures[name])}" for name in shown(figures)]
    return f"Version {result['version']} reaches {' and '.join(told)} on {found['rows']:,} {split} rows."


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of metrics: all sub-models together first."""
    names = [name for name in METRICS if name in found["ensemble"]]
    every = {"all sub-models together": found["ensemble"]}
    for target in found.get("targets", ()):
        every[f"of {target}"] = {name: found["ensemble"][name_of(name, target)] for name in names}
    every |= {f"shard {sub['shard']} alone": sub for sub in found["sub_models"]}
    return {
        "heads": ["", *(METRICS[name].words for name in names)],
        "figures": [[who, *(_number(figures[name]) for name in names)] for who, figures in every.items()],
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _of_classes(found: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    classes = [str(name) for name in result["classes"]]
    plots = [confusion_plot(found["confusion"], classes)]
    if len(found["calibration"]) > 1:  # one point is no curve
        plots.append(calibration_plot(found["calibration"]))
    return {
        "plots": plots,
        "confused": [
            [one["label"], one["answer"], f"{one['rows']:,}"] for one in most_confused(found["confusion"], classes)
        ],
        "recognised": [
            [label, f"{rows:,}", f"{100 * found['confusion'][at][at] / rows:.1f} %"]
            for at, (label, rows) in enumerate(zip(classes, found["labels"], strict=True))
            if rows
        ],
    }


def _of_one(found: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    return {"plots": [], "each": [_residuals("", found)]}


def _of_several(found: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    return {"plots": [], "each": [_residuals(target, part) for target, part in found["targets"].items()]}


def _residuals(target: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of one target; its name is told where there are several."""
    return {
        "name": target,
        "plots": [predicted_plot(part["predicted"]), residual_plot(part["residuals"])],
        "quantiles": [[share, _number(value)] for share, value in part["residuals"]["quantiles"].items()],
        "covered": part["residuals"]["covered"],
    }


def most_confused(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most frequent mistakes: label, answer and how often, the most frequent first.

    Args:
        confusion: Counts, label × answer.
        classes: Names in that order.

    Example:
        >>> most_confused([[5, 2], [0, 4]], ["cat", "dog"])
        [{'label': 'cat', 'answer': 'dog', 'rows': 2}]
    """
    wrong: list[dict[str, Any]] = [
        {"label": classes[label], "answer": classes[answer], "rows": rows}
        for label, line in enumerate(confusion)
        for answer, rows in enumerate(line)
        if label != answer and rows
    ]
    return sorted(wrong, key=lambda one: -one["rows"])[:_MOST_CONFUSIONS]


def confusion_plot(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return the confusion matrix as SVG, each line as shares of its label's rows."""
    counts = np.asarray(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn, axes = _axes()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_CLASSES:
        axes.set_xticks(range(len(classes)), classes, fontsize=7, rotation=90)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set(xlabel="answer", ylabel="label", title="Confusion matrix (share of the label's rows)")
    drawn.colorbar(image, ax=axes, shrink=0.8)
    return themed(drawn, "confusion matrix: the share of each label's rows that got each answer")


def calibration_plot(curve: Sequence[Mapping[str, float]]) -> str:
    """Return accuracy against confidence as SVG, with the number of rows below."""
    drawn = Figure(figsize=_SIZE, layout="constrained")
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence = [one["confidence"] for one in curve]
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="as confident as right")
    upper.plot(confidence, [one["accuracy"] for one in curve], color=BLUE, marker="o", ms=4, label="the model")
    upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02), title="Calibration")
    upper.legend(fontsize=8)
    lower.bar(confidence, [one["rows"] for one in curve], width=0.03, color=PALE)
    lower.set(xlabel="confidence (largest probability)", ylabel="rows")
    return themed(drawn, "share of right answers against their confidence")


def predicted_plot(grid: Mapping[str, Any]) -> str:
    """Return predicted against true as SVG: how many rows of each target got each value, darker for more."""
    edges = grid["edges"]
    drawn, axes = _axes()
    counts = np.asarray(grid["counts"], dtype=np.float64)
    image = axes.pcolormesh(edges, edges, np.sqrt(counts).T, cmap="Blues")  # roots, or few bins would be seen
    image.set_rasterized(True)
    axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color=GREY, lw=1, ls="--")
    axes.set(xlabel="target", ylabel="value", title="Predicted against true (rows; beyond the ends: in the last bins)")
    axes.title.set_fontsize(9)
    return themed(drawn, "predicted values against true ones")


def residual_plot(found: Mapping[str, Any]) -> str:
    """Return the histogram of residuals as SVG, with its quartiles."""
    edges = np.asarray(found["edges"])
    drawn, axes = _axes()
    axes.bar(edges[:-1], found["counts"], width=np.diff(edges), align="edge", color=PALE)
    for share, style in (("0.25", ":"), ("0.5", "-"), ("0.75", ":")):
        axes.axvline(found["quantiles"][share], color=BLUE, lw=1, ls=style)
    axes.set(xlabel="value − target (lines: quartiles)", ylabel="rows", title="Residuals")
    return themed(drawn, "histogram of value minus target, with quartiles")


def _axes() -> tuple[Figure, Axes]:
    drawn = Figure(figsize=_SIZE, layout="constrained")
    return drawn, drawn.subplots()
