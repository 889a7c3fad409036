"""docs/faults.md tells of every fault point, and of none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from hybridmu import faults

ROOT = Path(__file__).parents[2]


def test_every_fault_point_is_told_of() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "faults.md").read_text(), flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z.]+)`", row)}
    transactions = {name for name in named if "." not in name and name != "step"}
    assert transactions == set(faults.TRANSACTIONS)
    points = named - transactions | {f"{name}.{when}" for name in transactions for when in ("commit", "committed")}
    assert points == set(faults.POINTS)


def test_every_test_that_is_named_is_there() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    named = set(re.findall(r"`([\w/]+/test_\w+\.py)`", text))
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_code_reaches_no_point_that_has_no_name() -> None:
    code = "".join(path.read_text() for path in (ROOT / "hybridmu").rglob("*.py"))
    reached = set(re.findall(r'reach\("([a-z.]+)"\)', code))
    begun = set(re.findall(r'transaction\([a-z_.]+, "([a-z]+)"\)', code))
    assert begun == set(faults.TRANSACTIONS)
    assert reached | {f"{name}.{when}" for name in begun for when in ("commit", "committed")} == set(faults.POINTS)
