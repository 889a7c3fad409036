"""The page of a certificate in a real Chromium: on a phone, in the dark, and on paper. `make browser` installs it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hybridmu.verifier.page import page
from hybridmu.verifier.plain_data import canonical
from hybridmu.verifier.verdict import judge
from tests import sample_certificates as made
from tests.verifier import certificates

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: make browser")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The page of a certificate, of one with a name too long for any line, and of a forged one."""
    folder = tmp_path_factory.mktemp("pages")
    documents = {
        "good": made.signed(),
        "long": certificates.spoken("request-" + 400 * "x"),
        "forged": certificates.forgeries()["changed request.id"],
    }
    found = {name: folder / f"{name}.html" for name in documents}
    for name, document in documents.items():
        found[name].write_text(page(judge("x.json", canonical(document), [made.PUBLIC])))
    return found


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("name", ["good", "long", "forged"])
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark"), (320, "light")])
def test_it_is_read_on_every_screen(files, chromium, name, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    shown = context.new_page()
    problems: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: problems.append(message.text))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(files[name].as_uri())
    assert asked == [files[name].as_uri()]
    assert problems == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("[...document.querySelectorAll('dd, li, p')].every(e => e.scrollWidth <= e.clientWidth)")
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(13, 17, 23)") == (scheme == "dark")
    context.close()


def test_it_fits_on_paper(files, chromium, tmp_path):
    shown = chromium.new_context(color_scheme="dark").new_page()
    shown.goto(files["good"].as_uri())
    shown.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 1 <= pages <= 2
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
