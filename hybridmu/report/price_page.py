"""The page of a price list: what each way to train is worth, and what it costs to forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from hybridmu.core.metrics import METRICS, figure
from hybridmu.report.html_page import render
from hybridmu.report.svg_plots import svg


def page(result: Mapping[str, Any]) -> str:
    """Return the result of `System.suggest` as one HTML page without outside references."""
    return render("prices.html.j2", result=result, plot=prices_plot(result), figure=figure, words=_words(result))


def prices_plot(result: Mapping[str, Any]) -> str:
    """Return scores against the device-seconds of a deletion as SVG; a line joins what no other offer beats."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for offer in result["offers"]:
        colour, size = ("#20639b", 60) if offer["front"] else ("#9db9d3", 30)
        axes.scatter(_cost(offer), offer["score"], color=colour, s=size, zorder=2)
        axes.annotate(
            offer["name"],
            (_cost(offer), offer["score"]),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    best = sorted((offer for offer in result["offers"] if offer["front"]), key=_cost)
    axes.plot([_cost(offer) for offer in best], [offer["score"] for offer in best], color="#20639b", lw=1)
    axes.set_xscale("log")
    whom = "a person" if any(offer["person"] for offer in result["offers"]) else "a row"
    axes.set(xlabel=f"device-seconds to forget {whom}", ylabel=_words(result)[0], title="What forgetting costs")
    return svg(figure)


def _words(result: Mapping[str, Any]) -> list[str]:
    return [METRICS[name].words for name in result["metrics"]]


def _cost(offer: Mapping[str, Any]) -> float:
    return float((offer["person"] or offer["row"])["device_seconds"])
