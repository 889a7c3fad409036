"""Every report in a real Chromium: on a phone, on a desk, in the dark, on paper. `make browser` installs it.

The pages are made of real runs of small systems.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hybridmu
from hybridmu.report import audit_page, demo_page, evaluation_page, price_page, size_page
from tests.scenes import forgotten_reviews
from tests.support import make_table, settings_dict, table, write
from tests.test_regression import config_in, made

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: make browser")

NAMES = ("demo", "audit", "evaluation", "evaluation of numbers", "prices", "size", "size, too few")
# (width, colour scheme, media)
SCREENS = [(width, scheme, "screen") for width in (390, 1280) for scheme in ("light", "dark")]
SCREENS += [(width, "dark", "print") for width in (390, 1280)]
_DARK, _WHITE = "rgb(13, 17, 23)", "rgb(255, 255, 255)"
# Whatever is drawn beyond the screen's edge: the page would scroll sideways.
_BEYOND = """
[...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 || e.getBoundingClientRect().left < -1)
  .filter(e => !e.closest("svg") || e.tagName == "svg").map(e => e.tagName + " " + e.className)
"""


def _small(folder: Path) -> dict[str, str]:
    """Return the pages of a small system of classes, and of the size that it needs."""
    folder.mkdir()
    make_table(folder / "train.parquet", 240, groups=40)
    write(folder, table(60, start=1000, seed=1, groups=40), "test.parquet")
    data = {"test": str(folder / "test.parquet"), "group": "person"}
    raw = settings_dict(folder, data=data, sisa={"shards": 3, "slices": 2, "epochs": 3})
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        for row in (3, 5):
            system.forget(ids=[row], strategy="retrain", wait=True)
        return {
            "evaluation": evaluation_page.page(system.evaluate()),
            "prices": price_page.page(system.suggest(seconds=1e9)),
            "audit": audit_page.page(system.audit(strategy="dpus", models=8, shards=1, share=0.15)),
            "size": size_page.page(system.size(5_000, 3600.0, days=0.05, strategy="retrain"), 3600.0),
            "size, too few": size_page.page(system.size(5_000, 0.001, days=0.05, strategy="retrain"), 0.001),
        }


def _numbers(folder: Path) -> str:
    """Return the page of an evaluation of numbers."""
    for number, (split, rows) in enumerate({"train": 240, "validation": 40, "test": 60}.items()):
        write(folder, made(rows, start=number * 1000, seed=number), f"{split}.parquet")
    with hybridmu.connect(config_in(folder, policy={"calibrate": False}), executor="local") as system:
        system.train()
        return evaluation_page.page(system.evaluate())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    pages = {
        "demo": demo_page.page(forgotten_reviews.told(folder / "demo")),
        "evaluation of numbers": _numbers(folder / "numbers"),
        **_small(folder / "small"),
    }
    found = {name: folder / f"{number}.html" for number, name in enumerate(pages)}
    for name, text in pages.items():
        found[name].write_text(text)
    assert {*found} == {*NAMES}
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme", "media"), SCREENS)
def test_nothing_is_wider_than_the_screen(
    files: dict[str, Path], chromium: Any, name: str, width: int, scheme: str, media: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    shown = context.new_page()
    problems: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: problems.append(message.text))
    shown.on("request", lambda request: asked.append(request.url))
    shown.emulate_media(media=media, color_scheme=scheme)
    shown.goto(files[name].as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert shown.evaluate(_BEYOND) == []
    assert problems == []
    assert [url for url in asked if not url.startswith("data:")] == [files[name].as_uri()], "nothing from elsewhere"
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == (_DARK if (scheme, media) == ("dark", "screen") else _WHITE)
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_it_leads_with_one_sentence_and_colours_say_something_in_words(
    files: dict[str, Path], chromium: Any, name: str
) -> None:
    shown = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark").new_page()
    shown.goto(files[name].as_uri())
    first = shown.evaluate("document.querySelector('h1').nextElementSibling.outerHTML")
    assert first.startswith('<p class="banner')
    assert re.search(r"\d", first)
    assert first.rstrip().endswith(".</p>")
    marks = shown.evaluate("[...document.querySelectorAll('.mark')].map(e => e.textContent.trim())")
    assert all(re.search(r"[A-Za-z]{2}", text) for text in marks)
    signs = shown.evaluate("[...document.querySelectorAll('.mark')].map(e => getComputedStyle(e, '::before').content)")
    assert {"✓", "!", "✗"} >= {sign.strip('" ') for sign in signs}
    # Ink on paper, in plots too: what is drawn in black would not be seen in the dark.
    inks = shown.evaluate("[...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)")
    assert "rgb(0, 0, 0)" not in inks
    assert not re.search('#000000|<script|@import|url\\((?!#|data:|&quot;#|"#)', files[name].read_text())
    shown.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_no_plot_is_of_one_colour(files: dict[str, Path], name: str) -> None:
    for plot in re.findall("<svg.*?</svg>", files[name].read_text(), re.DOTALL):
        colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", plot))
        assert len(colours) >= 2 or "<image" in plot, "what has one colour tells nothing apart"
        assert 'role="img"' in plot


def test_it_fits_on_paper(files: dict[str, Path], chromium: Any, tmp_path: Path) -> None:
    for name in NAMES:
        shown = chromium.new_context(color_scheme="dark").new_page()
        shown.goto(files[name].as_uri())
        shown.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
        pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
        assert 1 <= pages <= 6, name
        shown.context.close()
