"""Every promise names tests, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text()


def test_every_sentence_names_a_test():
    sentences = re.split(r"^\* ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sentences) >= 20
    for sentence in sentences:
        assert re.search(r"`[\w/]+/test_\w+\.py::test_\w+`", sentence), sentence


def test_every_named_test_exists():
    for file, name in re.findall(r"`([\w/]+/test_\w+\.py)::(test_\w+)`", PAGE):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
