"""The page of an evaluation, per held-out table: metrics, confusion matrix and calibration curve, or residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hybridmu.core.metrics import METRICS, name_of
from hybridmu.report.html_page import render
from hybridmu.report.svg_plots import svg

_MOST_CLASSES = 30  # whose names fit beside the matrix
_MOST_CONFUSIONS = 10


def page(result: Mapping[str, Any]) -> str:
    """Return the result of `System.evaluate` as one HTML page without outside references."""
    target = result.get("target")
    shown = _of_classes if "classes" in result else _of_one if isinstance(target, str) else _of_several
    return render(
        "evaluation.html.j2",
        version=result["version"],
        targets=[target] if isinstance(target, str) else target,
        tables=[
            {
                "name": name,
                **found,
                "metrics": {name: METRICS[name] for name in METRICS if name in found["ensemble"]},
                **shown(found, result),
            }
            for name, found in result["splits"].items()
        ],
    )


def _of_classes(found: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    classes = [str(name) for name in result["classes"]]
    return {
        "plots": [confusion_plot(found["confusion"], classes), calibration_plot(found["calibration"])],
        "confused": most_confused(found["confusion"], classes),
        "classes": [
            {"name": label, "rows": rows, "right": found["confusion"][at][at]}
            for at, (label, rows) in enumerate(zip(classes, found["labels"], strict=True))
            if rows
        ],
    }


def _of_one(found: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    return {"plots": [predicted_plot(found["predicted"]), residual_plot(found["residuals"])], "each": [found]}


def _of_several(found: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in METRICS if name in found["ensemble"]]
    return {
        "plots": [],
        "each": [
            {
                **part,
                "name": target,
                "plots": [predicted_plot(part["predicted"]), residual_plot(part["residuals"])],
                "figures": {name: found["ensemble"][name_of(name, target)] for name in known},
            }
            for target, part in found["targets"].items()
        ],
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
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_CLASSES:
        axes.set_xticks(range(len(classes)), classes, fontsize=7, rotation=90)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set(xlabel="answer", ylabel="label", title="Confusion matrix (share of the label's rows)")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return svg(figure)


def calibration_plot(curve: Sequence[Mapping[str, float]]) -> str:
    """Return accuracy against confidence as SVG, with the number of rows below."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence = [one["confidence"] for one in curve]
    upper.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--", label="as confident as right")
    upper.plot(confidence, [one["accuracy"] for one in curve], color="#20639b", marker="o", ms=4, label="the model")
    upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02), title="Calibration")
    upper.legend(fontsize=8)
    lower.bar(confidence, [one["rows"] for one in curve], width=0.03, color="#9db9d3")
    lower.set(xlabel="confidence (largest probability)", ylabel="rows")
    return svg(figure)


def predicted_plot(grid: Mapping[str, Any]) -> str:
    """Return predicted against true as SVG: how many rows of each target got each value, darker for more."""
    edges = grid["edges"]
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    counts = np.asarray(grid["counts"], dtype=np.float64)
    image = axes.pcolormesh(edges, edges, np.sqrt(counts).T, cmap="Blues")  # roots, or few bins would be seen
    image.set_rasterized(True)
    axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color="#bbbbbb", lw=1, ls="--")
    axes.set(xlabel="target", ylabel="value", title="Predicted against true (rows; beyond the ends: in the last bins)")
    axes.title.set_fontsize(9)
    return svg(figure)


def residual_plot(found: Mapping[str, Any]) -> str:
    """Return the histogram of residuals as SVG, with its quartiles."""
    edges = np.asarray(found["edges"])
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(edges[:-1], found["counts"], width=np.diff(edges), align="edge", color="#9db9d3")
    for share, style in (("0.25", ":"), ("0.5", "-"), ("0.75", ":")):
        axes.axvline(found["quantiles"][share], color="#20639b", lw=1, ls=style)
    axes.set(xlabel="value − target (lines: quartiles)", ylabel="rows", title="Residuals")
    return svg(figure)
