"""Points of the console's plots, on logarithmic axes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The plot's area inside a picture of 300 × 220.
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 290.0, 10.0, 190.0


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        title: What it shows.
        x: Unit of the horizontal axis.
        points: Pixel, pixel, class.
        left: Label of the axis' ends, and so on.
        right: See `left`.
        low: See `left`.
        high: See `left`.
        diagonal: Whether the line "as planned" is drawn.
    """

    title: str
    x: str
    points: tuple[tuple[float, float, str], ...]
    left: str
    right: str
    low: str
    high: str
    diagonal: bool = False


def plan_and_actual(outcomes: Sequence[Mapping[str, Any]]) -> Figure:
    """Return measured over planned seconds, both axes alike.

    Args:
        outcomes: Rows of `Measurements.recent`.
    """
    pairs = [(o["estimated_seconds"], o["measured_seconds"], o["strategy"]) for o in outcomes]
    pairs = [pair for pair in pairs if pair[0] and pair[1]]
    every = [value for a, b, _ in pairs for value in (a, b)]
    title = "seconds taken (upwards) over seconds planned; dashed: as planned"
    return _figure(title, "s", pairs, every, every, diagonal=True)


def boundary(outcomes: Sequence[Mapping[str, Any]]) -> Figure:
    """Return which strategy was chosen where: seconds taken over the retrain's workload that was planned.

    Args:
        outcomes: Rows of `Measurements.recent`.
    """
    pairs = [(o["planned_visits"], o["measured_seconds"], o["strategy"]) for o in outcomes]
    pairs = [pair for pair in pairs if pair[0] and pair[1]]
    title = "seconds taken (upwards) over sample visits planned: where the planner draws the boundary"
    return _figure(title, "visits", pairs, [a for a, _, _ in pairs], [b for _, b, _ in pairs])


def _figure(
    title: str,
    x: str,
    pairs: Sequence[tuple[float, float, str]],
    across: Sequence[float],
    up: Sequence[float],
    *,
    diagonal: bool = False,
) -> Figure:
    (left, right), (low, high) = _range(across), _range(up)

    def place(value: float, low: float, high: float, start: float, end: float) -> float:
        share = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return round(start + share * (end - start), 1)

    points = tuple(
        (place(a, left, right, _LEFT, _RIGHT), place(b, low, high, _BOTTOM, _TOP), name) for a, b, name in pairs
    )
    ends = {"left": left, "right": right, "low": low, "high": high}
    return Figure(title, x, points, **{name: f"{end:,g}" for name, end in ends.items()}, diagonal=diagonal)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return powers of ten around values.

    Example:
        >>> _range([0.02, 3.0])
        (0.01, 10.0)
    """
    if not values:
        return 1.0, 10.0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)
