"""The page of a price list: what each way to train is worth, and what it costs to forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from hybridmu.core.metrics import METRICS, figure
from hybridmu.report.html_page import render
from hybridmu.report.measured_times import duration
from hybridmu.report.svg_plots import BLUE, GREY, themed

# An estimate may be 0, which a logarithmic axis does not have.
_LEAST_DRAWN = 1e-4


def page(result: Mapping[str, Any]) -> str:
    """Return the result of `System.suggest` as one HTML page without outside references."""
    offers = result["offers"]
    score, loss = result["metrics"]
    return render(
        "prices.html.j2",
        headline=headline(result),
        result=result,
        words=_words(result),
        offers=[
            [
                offer["name"],
                figure(score, offer["score"]),
                figure(score, offer["single_score"]),
                figure(loss, offer["loss"]),
                duration(offer["training_seconds"]),
                *(_price(offer[of]) for of in ("row", "person", "hundredth")),
                "best" if offer["front"] else "",
            ]
            for offer in offers
        ],
        best=[at for at, offer in enumerate(offers) if offer["front"]],
        svgs=[prices_plot(result)] if len(offers) > 1 else [],  # one point compares nothing
    )


def headline(result: Mapping[str, Any]) -> str:
    """Return what forgetting costs, from the most accurate way to the cheapest, in one sentence."""
    score, whom = result["metrics"][0], _whom(result)
    best = sorted((offer for offer in result["offers"] if offer["front"]), key=_cost)
    said = [
        f"{duration(_cost(offer))} of a device with {METRICS[score].words} {figure(score, offer['score'])}"
        f" ({offer['name']})"
        for offer in (best[-1], best[0])
    ]
    rows = f"On {result['rows']:,} rows, forgetting {whom} costs"
    return f"{rows} {said[0]}." if len(best) == 1 else f"{rows} from {said[0]} down to {said[1]}."


def prices_plot(result: Mapping[str, Any]) -> str:
    """Return scores against the device-seconds of a deletion as SVG; a line joins what no other offer beats."""
    drawn = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = drawn.subplots()
    for offer in result["offers"]:
        look: dict[str, Any] = (
            {"color": BLUE, "s": 50, "marker": "o"} if offer["front"] else {"color": GREY, "s": 30, "marker": "x"}
        )
        axes.scatter(_drawn_at(offer), offer["score"], zorder=2, **look)
        axes.annotate(
            offer["name"],
            (_drawn_at(offer), offer["score"]),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    best = sorted((offer for offer in result["offers"] if offer["front"]), key=_cost)
    axes.plot([_drawn_at(offer) for offer in best], [offer["score"] for offer in best], color=BLUE, lw=1)
    axes.set_xscale("log")
    axes.set(
        xlabel=f"device-seconds to forget {_whom(result)}", ylabel=_words(result)[0], title="What forgetting costs"
    )
    return themed(drawn, "quality of each way to train against the device-seconds of a deletion")


def _drawn_at(offer: Mapping[str, Any]) -> float:
    return max(_cost(offer), _LEAST_DRAWN)


def _whom(result: Mapping[str, Any]) -> str:
    return "a person" if any(offer["person"] for offer in result["offers"]) else "a row"


def _price(price: Mapping[str, float] | None) -> str:
    if price is None:
        return ""
    return f"{duration(price['seconds'])}, {duration(price['device_seconds'])} of a device"


def _words(result: Mapping[str, Any]) -> list[str]:
    return [METRICS[name].words for name in result["metrics"]]


def _cost(offer: Mapping[str, Any]) -> float:
    return float((offer["person"] or offer["row"])["device_seconds"])
