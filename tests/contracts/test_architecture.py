"""The page of architecture names every file as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_map_is_of_these_files():
    page = (DOCS / "architecture.md").read_text()
    assert runpy.run_path(str(DOCS / "file_map.py"))["written"](page) == page, "python docs/file_map.py"
