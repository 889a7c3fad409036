"""The page of architecture names every file as it is, and no other."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "architecture.md").read_text()


def test_the_map_is_of_these_files() -> None:
    assert runpy.run_path(str(DOCS / "file_map.py"))["written"](PAGE) == PAGE, "python docs/file_map.py"


def test_the_journeys_go_through_files_that_are_there() -> None:
    journeys = PAGE.partition("## Journeys")[2].partition("\n## ")[0]
    for title in ("### Train", "### Forget", "### Predict", "### Purge"):
        assert title in journeys
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", journeys))
    assert len(named) >= 40
    missing = [name for name in named if not (ROOT / "hybridmu" / name).exists() and not (ROOT / name).exists()]
    assert missing == []


def test_the_journeys_name_functions_of_their_files() -> None:
    journeys = PAGE.partition("## Journeys")[2].partition("\n## ")[0]
    calls = re.findall(r"`([\w/]+\.py)`\s+`(?:[A-Z]\w+\.)?([a-z_]+)`", journeys)
    assert len(calls) >= 10
    for file, function in calls:
        found = next(path for path in (ROOT / "hybridmu" / file, ROOT / file) if path.exists())
        assert f"def {function}(" in found.read_text(), f"{file} {function}"
