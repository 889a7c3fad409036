"""A small system does and leaves the same as before, to the bit of its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contracts.golden import told

KEPT = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return told(tmp_path_factory.mktemp("golden"))


def test_nothing_is_told_that_is_not_compared(found):
    assert found.keys() == KEPT.keys()


@pytest.mark.parametrize("part", sorted(KEPT))
def test_it_is_as_it_was(found, part):
    assert found[part] == KEPT[part]
