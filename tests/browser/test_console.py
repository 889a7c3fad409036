"""The console in a real Chromium: with the keyboard, on a phone's width, in the dark. `make browser` installs both."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from tests.server.test_app import Company
from tests.support import HANG_SECONDS

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: make browser")


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("browser"))
    system = made.system
    for number, strategy in enumerate(("retrain", "dpus-optimised", "dpus", "retrain")):
        system.forget(ids=[3 + 7 * number], strategy=strategy, caller=("privacy-desk", "shop")[number % 2],
                      deadline_seconds=86_400)  # fmt: skip
        system.run(until_idle=True)
    system.forget(ids=[70], caller="shop", deadline_seconds=3600)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(company) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(company.app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(HANG_SECONDS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    # A sandbox of its own needs a user namespace, which containers often lack; all pages are ours.
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def shoot(page, name: str) -> None:
    """Keep a picture of a page where `make screenshots` wants one."""
    if folder := os.environ.get("CONSOLE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def entered(company, url, chromium, width: int, scheme: str, *scopes: str):
    """Return the console's first page, in a browser of its own."""
    token, _ = company.tokens.create("auditor", scopes)
    page = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme).new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{url}/console")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#requests")
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1100, "light"), (390, "dark")])
def test_every_column_of_a_list_is_on_the_screen(company, url, chromium, width, scheme):
    page = entered(company, url, chromium, width, scheme, "audit")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('main .scroll')].every(e => e.scrollWidth <= e.clientWidth)")
    certificates = page.locator("td[data-label=certificate] a")
    assert certificates.count() == 4
    for number in range(4):
        box = certificates.nth(number).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    cells = page.get_by_role("table").first.get_by_role("row").last.get_by_role("cell")
    assert cells.count() == 9, "a list of cards is still a table"
    page.context.close()


@pytest.mark.parametrize(("width", "scheme", "name"), [(1280, "light", "request"), (390, "dark", "request-phone")])
def test_a_life_is_one_line_across_or_down(company, url, chromium, width, scheme, name):
    page = entered(company, url, chromium, width, scheme, "audit")
    page.locator("main td a[href*=requests]").nth(3).click()  # updated first, exact later
    line = page.get_by_role("list", name="Where it stands")
    marks = line.get_by_role("listitem")
    assert [mark.locator("strong").text_content() for mark in marks.all()] == [
        "accepted", "planned", "applied", "served", "exact", "purged", "deadline",
    ]  # fmt: skip
    assert line.locator("[aria-current=step] strong").text_content() == "purged"
    boxes = [mark.bounding_box() for mark in marks.all()]
    along, across = ("y", "x") if width == 390 else ("x", "y")
    assert len({round(box[across]) for box in boxes}) == 1, "one line"
    assert [box[along] for box in boxes] == sorted({box[along] for box in boxes}), "in order, none upon another"
    assert all(box["x"] + box["width"] <= width + 1 for box in boxes)
    assert page.evaluate("[...document.querySelectorAll('.life *')].every(e => e.scrollWidth <= e.clientWidth + 1"
                         " || getComputedStyle(e).display == 'inline')")  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('main .scroll')].every(e => e.scrollWidth <= e.clientWidth)")
    shoot(page, name)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.get_by_role("button").first.is_visible()
    page.context.close()


@pytest.mark.parametrize(("name", "width", "scheme"), [("console", 1280, "light"), ("phone", 390, "dark")])
def test_an_auditor_with_a_keyboard(company, url, chromium, name, width, scheme):
    token, _ = company.tokens.create("auditor", ["audit"])
    page = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(10_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{url}/console")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "to the content"
    page.focus("#token")
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#requests")
    assert page.locator("main table tbody tr").count() == 5
    # Nothing is wider than the screen, but for the table of a plan, which scrolls by itself.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(13, 17, 23)") == (scheme == "dark")
    circle = page.locator("figure circle").first
    assert circle.evaluate("e => getComputedStyle(e).fill") != "rgb(0, 0, 0)", "strategies have colours"
    if name == "console":
        shoot(page, name)
    link = page.locator("main table a[href*=requests]").last
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#plan")
    assert "retrain" in page.content()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as download:
        page.get_by_role("link", name="1", exact=True).click()
    assert download.value.suggested_filename == "certificate-1.json"
    page.get_by_role("button", name="leave").click()
    page.wait_for_selector("#token")
    assert problems == []
    page.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (360, "dark")])
def test_a_desk_plans_and_submits_a_deletion_and_takes_it_back(company, url, chromium, width, scheme):
    token, _ = company.tokens.create("desk", ["audit", "forget", "admin"])
    page = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(f"{url}/console")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#requests")

    def fits() -> bool:
        return page.evaluate("document.documentElement.scrollWidth") <= width

    assert fits()
    page.get_by_role("link", name="new deletion").click()
    row = str(50 + (width == 360))
    page.get_by_label("Row ids, one per line").fill(f"{row}\n")
    page.get_by_label("Days until").fill("3")
    page.get_by_role("button", name="show the plan").click()
    page.wait_for_selector("#plan")
    assert page.get_by_label("Row ids, one per line").input_value() == f"{row}\n"
    assert fits()
    page.get_by_role("button", name="forget", exact=True).click()
    page.wait_for_selector("text=RECEIVED")
    assert fits()
    page.get_by_role("button", name="take it back").click()
    page.wait_for_selector("text=CANCELLED")
    page.get_by_role("link", name="find a person").click()
    page.get_by_label("Look for a").select_option("id")
    page.get_by_label("Its name").fill("3")
    page.get_by_role("button", name="find").click()
    page.wait_for_selector("#found")
    assert page.locator("main table tbody tr").count() == 1
    assert fits()
    assert problems == []
    page.context.close()
