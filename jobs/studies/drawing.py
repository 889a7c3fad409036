"""What the study's figures share."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from jobs.studies.grid import CONTENDERS

_COLOURS = {name: mpl.colormaps["tab20"](number) for number, name in enumerate(CONTENDERS)}


def colour_of(strategy: str) -> Any:
    """Return the colour that a strategy has in every figure."""
    return _COLOURS[strategy]


def legend(axes: Axes) -> None:
    """Name every strategy once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axes.legend(once.values(), once.keys(), fontsize=6)
