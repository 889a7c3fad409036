"""The page of a sizing: how a load of deletions fares on more and more workers, beside the deadline it has to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from hybridmu.report.html_page import Cell, render
from hybridmu.report.measured_times import duration
from hybridmu.report.svg_plots import BLUE, GREY, ORANGE, themed


def page(found: Mapping[str, Any], deadline_seconds: float) -> str:
    """Return the result of `System.size` as one HTML page without outside references.

    Args:
        found: From `System.size`.
        deadline_seconds: As it was asked for.
    """
    sizes = found["sizes"]
    return render(
        "size.html.j2",
        headline=headline(found, deadline_seconds),
        mark="bad" if found["workers"] is None else "good",
        found=found,
        days=f"{found['days']:.3g}",
        devices=_devices(found),
        allowed=duration(deadline_seconds),
        sizes=[
            [
                str(one["workers"]),
                _in_time(one["late"]),
                *(duration(one[name]) for name in ("served_p50", "served_p95", "exact_p95", "exact_worst")),
                f"{one['utilisation']:.1%}",
                f"{one['device_hours_per_day']:.3g}",
            ]
            for one in sizes
        ],
        enough=[at for at, one in enumerate(sizes) if one["workers"] == found["workers"]],
        svgs=[exact_plot(found, deadline_seconds)] if len(sizes) > 1 else [],  # one point compares nothing
        measured=", ".join(f"{count:,} of {name}" for name, count in found["observations"].items()),
    )


def headline(found: Mapping[str, Any], deadline_seconds: float) -> str:
    """Return how many workers are enough, in one sentence.

    Args:
        found: From `System.size`.
        deadline_seconds: As it was asked for.
    """
    allowed, load = duration(deadline_seconds), f"{found['requests']:,} requests of {found['days']:.3g} days"
    by_workers = {one["workers"]: one for one in found["sizes"]}
    if found["workers"] is None:
        most = by_workers[max(by_workers)]
        return (
            f"Not even {most['workers']} worker(s) of {_devices(found)} each keep the deadline of {allowed}:"
            f" {most['late']:,} of {load} are late, the slowest by {duration(most['exact_worst'] - deadline_seconds)};"
            " use more shards, an approximate strategy, or a later deadline."
        )
    best = by_workers[found["workers"]]
    return (
        f"{best['workers']} worker(s) of {_devices(found)} each are enough: all {load} are exact within {allowed}, the"
        f" slowest after {duration(best['exact_worst'])}."
    )


def exact_plot(found: Mapping[str, Any], deadline_seconds: float) -> str:
    """Return seconds until a request is exact against the number of workers, with the deadline, as SVG.

    Args:
        found: From `System.size`.
        deadline_seconds: As it was asked for.
    """
    drawn = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = drawn.subplots()
    workers = [one["workers"] for one in found["sizes"]]
    axes.plot(workers, [one["exact_p95"] for one in found["sizes"]], color=BLUE, marker="o", label="95 of 100 requests")
    axes.plot(workers, [one["exact_worst"] for one in found["sizes"]], color=GREY, marker="x", label="the slowest")
    axes.axhline(deadline_seconds, color=ORANGE, ls="--", label="the deadline")
    axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(count) for count in workers])
    axes.set(xlabel="workers", ylabel="seconds until exact", title="How long requests take")
    axes.legend(fontsize=8)
    return themed(drawn, "seconds until requests are exact against the number of workers, with the deadline")


def _devices(found: Mapping[str, Any]) -> str:
    return f"{found['devices_per_worker']:g} {found['device']}"


def _in_time(late: int) -> Cell:
    return Cell(f"no: {late:,} late", "bad") if late else Cell("yes: all of them", "good")
