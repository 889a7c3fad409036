"""The documentation as a site: it is made strictly, no link of it is broken, and the references name everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer.main
import yaml

import hybridmu
import hybridmu.estimator
import hybridmu.plugins
import hybridmu.task
from hybridmu.cli.main import app
from hybridmu.config import Settings
from hybridmu.config.schema import settings_schema
from hybridmu.server.app import make_app
from tests.config.test_settings_bounds import FIELDS
from tests.support import HANG_SECONDS, local_system, make_table

ROOT = Path(__file__).parents[2]
_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page of the site holds.

    Args:
        html: The page.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {str(given[name]) for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if (source := given.get(_LOADING.get(tag, ""))) and given.get("rel") not in {"prev", "next", "canonical"}:
            self.loaded.append(source)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made as `make docs` makes it; a warning is an error."""
    folder: Path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text()) for path in site.rglob("*.html")}


def words(pages: dict[str, Page], name: str) -> str:
    """Return what readers see of a page of the reference, in one line."""
    return " ".join(pages[f"reference/{name}.html"].text.split())


def test_every_page_is_on_the_site(pages: dict[str, Page]) -> None:
    written = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(written) >= 50
    assert written - {*pages} == set()


def test_no_link_is_broken(site: Path, pages: dict[str, Page]) -> None:
    broken, followed = defaultdict(list), 0
    for name, page in pages.items():
        for link in {*page.links, *page.loaded}:
            parts = urlsplit(link)
            if parts.scheme or name == "404.html":  # that page is shown at any address
                continue
            followed += 1
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken[name].append(link)
            elif parts.fragment and target.suffix == ".html":
                anchors = pages[str(target.resolve().relative_to(site.resolve()))].anchors
                if unquote(parts.fragment) not in anchors and parts.fragment != "__skip":
                    broken[name].append(link)
    assert followed > 1000
    assert broken == {}


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert any(page.loaded for page in pages.values())
    for name, page in pages.items():
        assert [source for source in page.loaded if urlsplit(source).netloc] == [], name
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet


def test_lists_are_lists(site: Path) -> None:
    """Markdown of GitHub begins a list in the middle of a paragraph, that of the site does not."""
    for path in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>.*?</p>", path.read_text(), re.DOTALL):
            assert re.search(r"\n([*-]|\d\.) ", paragraph) is None, f"{path.name}: {paragraph}"


def test_it_can_be_searched_and_darkened(site: Path) -> None:
    (index,) = site.glob("search/search_index.json")
    found = {entry["location"].partition("#")[0] for entry in json.loads(index.read_text())["docs"]}
    assert {"tutorial.html", "reference/configuration.html", "reference/python.html"} <= found
    page = (site / "index.html").read_text()
    assert {*re.findall(r'data-md-color-scheme="(\w+)"', page)} == {"default", "slate"}


def commands(command: Any, name: str) -> Iterator[str]:
    """Yield the names of a command and of all below it, with every option."""
    yield name
    for parameter in command.params:
        yield from (option for option in parameter.opts if option.startswith("--"))
    for below, each in getattr(command, "commands", {}).items():
        yield from commands(each.real() if hasattr(each, "real") else each, f"{name} {below}")


def test_every_command_and_option_is_in_the_reference(pages: dict[str, Page]) -> None:
    shown, named = words(pages, "command-line"), set(commands(typer.main.get_command(app), "hybridmu"))
    assert {"hybridmu forget", "hybridmu config schema", "--ignore-unknown"} <= named
    assert {name for name in named if name not in shown} == set()


def test_every_key_of_the_configuration_is_in_the_reference(pages: dict[str, Page]) -> None:
    shown = words(pages, "configuration")
    assert len(FIELDS) >= 100
    assert [name for name in map(".".join, FIELDS) if f" {name} " not in shown] == []
    for section in settings_schema()["$defs"].values():
        for key in section.get("properties", {}).values():
            meaning = re.sub(r"docs/([\w-]+)\.md", r"\1", key["description"]).replace("`", "")
            assert " ".join(meaning.split()) in shown


def test_every_public_python_name_is_in_the_reference(pages: dict[str, Page]) -> None:
    anchors = pages["reference/python.html"].anchors
    for module in (hybridmu, hybridmu.estimator, hybridmu.task, hybridmu.plugins):
        for name in module.__all__:
            home = getattr(module, name)
            known = {f"{module.__name__}.{name}", f"{home.__module__}.{home.__qualname__}"}
            assert known & anchors, f"{module.__name__}.{name}"
    page = (ROOT / "docs/public-api.md").read_text()
    methods = page.partition("Methods of `System`")[2].partition("A method's arguments")[0]
    named = re.findall(r"`(\w+)`", methods.partition(":")[2])
    assert len(named) >= 40
    assert [name for name in named if f"hybridmu.System.{name}" not in anchors] == []


def test_every_path_of_the_http_interfaces_is_in_the_reference(pages: dict[str, Page], tmp_path: Path) -> None:
    make_table(tmp_path / "train.parquet", 60)
    with local_system(tmp_path, sisa={"shards": 1, "slices": 1, "epochs": 1}) as system:
        system.train()
        paths = make_app(system.settings).openapi()["paths"]
    shown = words(pages, "http")
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert len(calls) >= 7
    assert {call for call in calls | {"POST /v1/predict", "GET /v1/version"} if call not in shown} == set()


def test_the_schema_for_editors_is_on_the_site(site: Path) -> None:
    command = [Path(sys.executable).parent / "hybridmu", "config", "schema", "--json"]
    # In a process of its own: tests register names of kinds here.
    printed = subprocess.run(command, capture_output=True, timeout=HANG_SECONDS, check=True)
    assert json.loads((site / "hybridmu.schema.json").read_text()) == json.loads(printed.stdout)


def test_the_tutorial_has_the_configuration_of_its_example() -> None:
    tutorial = (ROOT / "docs/tutorial.md").read_text()
    (block,) = re.findall(r"<<'YAML'\n(.*?)^YAML$", tutorial, re.DOTALL | re.MULTILINE)
    ours, example = yaml.safe_load(block), yaml.safe_load((ROOT / "examples/reviews.yaml").read_text())
    assert Settings.parse(ours | {"storage_url": "s"}) == Settings.parse(example | {"storage_url": "s"})
