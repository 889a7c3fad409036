"""Every report has one frame: a headline, one style, nothing from elsewhere, no scripts."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest

import hybridmu.report
from hybridmu.report.html_page import Cell, render

FOLDER = Path(hybridmu.report.__file__).parent
PAGES = sorted(file.name for file in FOLDER.glob("*.html.j2") if file.name not in {"base.html.j2", "parts.html.j2"})
SIZE = {
    **{"found": {"requests": 3}, "days": "1", "devices": "1 CPU", "allowed": "24 h", "enough": [], "svgs": []},
    **{"measured": "", "sizes": [["1", Cell("yes: all", "good"), "<i>1 s</i>"]]},
}


@pytest.mark.parametrize("name", PAGES)
def test_every_report_extends_the_frame_and_brings_no_style(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text.startswith('{% extends "base.html.j2" %}')
    assert not re.search("<style|<script|<link|<table", text)


def test_text_is_escaped_and_what_is_marked_says_so() -> None:
    made = render("size.html.j2", headline="<b>3 of 4</b>", mark="middle", **SIZE)
    assert '<p class="banner middle">&lt;b&gt;3 of 4&lt;/b&gt;</p>' in made
    assert '<td data-of="in time"><span class="mark good">yes: all</span></td>' in made
    assert "&lt;i&gt;1 s&lt;/i&gt;" in made
    assert '<p class="banner">1 of 2</p>' in render("size.html.j2", headline="1 of 2", **SIZE)


def test_a_value_that_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("size.html.j2", headline="1 of 2")
