"""The pages as a site: no broken link, nothing from elsewhere, and a reference that leaves nothing out."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hybridmu
import hybridmu.estimator
import hybridmu.plugins
import hybridmu.task
from hybridmu.cli.verbs import VERBS
from hybridmu.config import Settings
from hybridmu.config.section import Section
from tests.support import HANG_SECONDS

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder


def text(site: Path, page: str) -> str:
    """Return the words of a page."""
    return html.unescape(re.sub(r"<[^>]*>", "", (site / page / "index.html").read_text()))


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site):
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")}
    assert len(pages) > 25
    assert pages <= {path.name for path in site.iterdir()}
    for path in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:)?//([^/"]*)', path.read_text())
        assert loaded == [], path


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_has_every_verb(site, verb):
    assert f"hybridmu {verb}" in text(site, "reference/command-line")


def test_the_configuration_has_every_key(site):
    page = text(site, "reference/configuration")
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        inside = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else {}
        for key in [f"{name}.{each}" for each in inside] or [name]:
            assert key in page, key
    assert (site / "hybridmu.schema.json").is_file()


def test_python_has_every_public_name(site):
    page = text(site, "reference/python")
    for module in (hybridmu, hybridmu.estimator, hybridmu.plugins, hybridmu.task):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", page), name
    for verb in ("forget", "plan", "certificate", "ingest", "upgrade"):
        assert f"System.{verb}" in page


def test_http_has_every_path(site):
    page = text(site, "reference/http")
    for path in ("POST /v1/forget", "POST /v1/plan", "GET /v1/requests/{request_id}", "POST /v1/predict"):
        assert path in page
