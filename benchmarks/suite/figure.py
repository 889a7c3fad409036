"""Figure of the suite: how good a model is, against what it costs to forget a row of it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.suite.records import newest
from hybridmu.report.svg_plots import svg


def quality_against_price(folder: Path) -> str:
    """Return, per table, accuracy or R² of every number of shards against the seconds to forget one row."""
    results = newest(folder / "shards.csv")
    names = list(dict.fromkeys(found.table for found in results)) or ["nothing measured"]
    figure = Figure(figsize=(3.6 * len(names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        mine = sorted((found for found in results if found.table == name), key=lambda found: found.shards)
        seconds, points = [found.forget_seconds for found in mine], [found.points("ours") for found in mine]
        axes.plot(seconds, points, "o-", color="#1f77b4")
        for found, x, y in zip(mine, seconds, points, strict=True):
            axes.annotate(f"S = {found.shards}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
        measure = "R²" if any(found.deviation for found in mine) else "accuracy"
        axes.set(title=name, xlabel="seconds to forget a row", ylabel=f"{measure} in %")
        axes.margins(x=0.25, y=0.2)
    return svg(figure)
