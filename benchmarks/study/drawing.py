"""Parts that the study's figures share."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = {
    "scratch": "#9ecae1",
    "sisa": "#1f77b4",
    "hybrid": "#000000",
    "dpus-raw": "#fdbf6f",
    "dpus": "#ff7f0e",
    "dpus-optimised": "#d62728",
    "dpus-newton": "#2ca02c",
    "rewind": "#9467bd",
    "amnesiac": "#8c564b",
    "fine-tune": "#e377c2",
    "nothing": "#7f7f7f",
    "oracle-again": "#17becf",
}


def colour_of(strategy: str) -> str:
    """Return the colour that a strategy has in every figure."""
    return _COLOURS[strategy]


def legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Name every strategy once, beside all panels, so that no point is hidden."""
    once: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        once.update(zip(labels, handles, strict=True))
    if once:
        figure.legend(list(once.values()), list(once), loc="outside right upper", fontsize=8)
