"""Plots of a report, as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hybridmu.core import strategies
from hybridmu.kinds import FALLBACK
from hybridmu.planning.cost import CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, ShardStats

_UPDATE = "#ed553b"  # of updates as such, whichever it is
_MOMENTS = {
    "applied": (">", "#f6a600"),
    "served": ("o", "#ed553b"),
    "exact": ("s", "#20639b"),
    "purged": ("X", "#1a7f37"),
}
_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def time_against_workload(outcomes: Sequence[dict[str, Any]], cost: CostModel) -> str:
    """Return a scatter of measured seconds over sample visits, with the fitted cost.

    Args:
        outcomes: Rows with `strategy`, `sample_visits` and `measured_seconds`.
        cost: The fit that is drawn as a line.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for strategy in strategies.names():
        visits = [o["sample_visits"] for o in outcomes if o["strategy"] == strategy]
        seconds = [o["measured_seconds"] for o in outcomes if o["strategy"] == strategy]
        if visits:
            axes.scatter(visits, seconds, s=22, color=strategies.get(strategy).colour, label=strategy)
    fit = cost.fits.get(FALLBACK)
    if fit is not None and outcomes:
        line = np.linspace(0, max(o["sample_visits"] for o in outcomes) * 1.05, 50)
        fitted = line * fit.per_visit + 2 * fit.per_checkpoint + fit.per_job
        axes.plot(line, fitted, color="#999999", lw=1, label=f"fitted {FALLBACK}")
    axes.set(xlabel="sample visits", ylabel="seconds on one worker", title="Time against workload")
    axes.legend(fontsize=8)
    return svg(figure)


def boundary(
    epochs: Sequence[int], rows_per_slice: int, cost: CostModel, policy: Policy, calibration: Calibration
) -> str:
    """Return a map of what the planner chooses, by first touched slice and share of rows revoked in that slice on.

    Args:
        epochs: e_i.
        rows_per_slice: Rows of a typical slice.
        cost: Fitted costs.
        policy: Boundary figures; no deadline is drawn.
        calibration: Fitted α.

    Returns:
        SVG.
    """
    slices = len(epochs)
    grid = np.zeros((len(_SHARES), slices))
    for column in range(slices):
        for line, share in enumerate(_SHARES):
            total = max(1, round(share * rows_per_slice * slices))
            spread = [0] * slices
            for number in range(min(total, rows_per_slice * (slices - column))):
                spread[column + number % (slices - column)] += 1
            stats = ShardStats(
                0, tuple(epochs), (rows_per_slice,) * slices, tuple(spread), tuple(spread), (True,) * slices
            )
            plan = make_plan([stats], cost, policy, Pools(1, 1), calibration)
            grid[line, column] = 0 if strategies.asks_exact(plan.shards[0].strategy) else 1
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colors.ListedColormap([strategies.get(FALLBACK).colour, _UPDATE])
    axes.imshow(grid, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=1)
    axes.set_xticks(range(slices), [str(i + 1) for i in range(slices)])
    axes.set_yticks(range(len(_SHARES)), [f"{share:.1%}" for share in _SHARES])
    axes.set(
        xlabel="first touched slice",
        ylabel="rows revoked",
        title="Where the boundary lies: blue retrain, red update",
    )
    return svg(figure)


def gaps(shards: Sequence[dict[str, Any]]) -> str:
    """Return bars of the two-sided forget-loss gap of approximate shards; 0 is ideal.

    Args:
        shards: Rows of `verify` with `shard` and `forget_loss_gap`.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    known = [entry for entry in shards if entry.get("forget_loss_gap") is not None]
    axes.axhline(0, color="#333333", lw=0.8)
    axes.axhspan(-0.05, 0.05, color="#20639b", alpha=0.1)
    axes.bar([str(e["shard"]) for e in known], [e["forget_loss_gap"] for e in known], color=_UPDATE)
    axes.set(xlabel="shard", ylabel="loss minus oracle's", title="Forget-loss gap of approximate shards (band: ±0.05)")
    return svg(figure)


def lives(requests: Sequence[dict[str, Any]]) -> str:
    """Return one line per request from its acceptance to its purge, seconds on a logarithmic axis.

    Args:
        requests: Rows with `name` and `seconds_to_applied`, `…_served`, `…_exact`, `…_purged`.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    lines = range(len(requests))
    for line, request in zip(lines, requests, strict=True):
        moments = [request[f"seconds_to_{moment}"] for moment in _MOMENTS]
        axes.plot([min(moments), max(moments)], [line, line], color="#999999", lw=1, zorder=1)
    for moment, (marker, colour) in _MOMENTS.items():
        seconds = [request[f"seconds_to_{moment}"] for request in requests]
        axes.scatter(seconds, lines, s=40, marker=marker, color=colour, label=moment, zorder=2)
    axes.set_yticks(lines, [request["name"] for request in requests], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set(xlabel="seconds since the request was received", title="The life of every request")
    axes.legend(fontsize=8)
    return svg(figure)


def svg(figure: Figure) -> str:
    """Return a figure as SVG, the same bytes every time."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "hybridmu", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
