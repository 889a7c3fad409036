"""Plots in the inks of a report."""

from __future__ import annotations

from matplotlib.figure import Figure

from hybridmu.report.svg_plots import BLUE, svg, themed


def drawn() -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=BLUE, label="a line")
    axes.legend()
    return figure


def test_the_same_bytes_every_time() -> None:
    assert svg(drawn()) == svg(drawn())
    assert themed(drawn(), "a line") == themed(drawn(), "a line")


def test_black_is_the_pages_ink_and_white_its_paper() -> None:
    plain, made = svg(drawn()), themed(drawn(), 'a "line" & more')
    assert "#000000" in plain
    assert "#ffffff" in plain
    assert "#000000" not in made
    assert "#ffffff" not in made
    assert "var(--ink)" in made
    assert BLUE in made
    assert made.startswith('<svg role="img" aria-label="a &quot;line&quot; &amp; more" ')
