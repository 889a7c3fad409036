"""Plots as inline SVG: as they are for pages elsewhere, or in the inks of a report."""

from __future__ import annotations

import html
import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Told apart on white and on black paper.
BLUE, PALE, ORANGE, GREY = "#3a86c8", "#9db9d3", "#e8703a", "#8b8b8b"
_INK, _PAPER = "#000000", "#ffffff"


def svg(figure: Figure) -> str:
    """Return a figure as SVG, the same bytes every time."""
    return _drawn(figure)


def themed(figure: Figure, says: str) -> str:
    """Return a figure as SVG for a report, the same bytes every time.

    What is black takes the page's ink and what is white its paper, so that it is read in the dark too.

    Args:
        figure: What was drawn.
        says: What it shows, for those who don't see it.
    """
    text = _drawn(figure, transparent=True).replace(_INK, "var(--ink)").replace(_PAPER, "var(--paper)")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(says)}"', 1)


def _drawn(figure: Figure, **options: Any) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "hybridmu", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
