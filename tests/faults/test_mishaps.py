"""Clients, whole nodes and clocks: the same promises as after the kills of a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.yard import Yard


def wrong(found: dict[str, Any]) -> list[str]:
    return [words for kind in ("lost", "doubled", "diverged") for words in found[kind]]


@pytest.mark.slow
def test_clients_that_are_killed_in_the_middle_of_a_call_can_ask_again(yard: Yard, tmp_path: Path) -> None:
    found = yard.call("tests.faults.mishaps:clients", 120, folder=str(tmp_path), seed=1)
    assert found["deaths"] >= 3
    assert wrong(found) == []


@pytest.mark.slow
def test_a_node_that_is_gone_with_all_its_processes_is_replaced(yard: Yard, tmp_path: Path) -> None:
    found = yard.call("tests.faults.mishaps:node", 120, folder=str(tmp_path), seed=1)
    assert found["reached"] > 0, "it was at work"
    assert wrong(found) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.sampled
def test_a_clock_that_is_set_back_delays_nothing_and_loses_nothing(yard: Yard, tmp_path: Path, seed: int) -> None:
    assert wrong(yard.call("tests.faults.mishaps:clock", 120, folder=str(tmp_path), seed=seed)) == []


@pytest.mark.slow
def test_a_changed_bit_in_the_ledger_is_refused_or_harmless(yard: Yard, tmp_path: Path) -> None:
    ends = yard.call("tests.faults.mishaps:flips", 200, folder=str(tmp_path), seed=3, count=40)
    assert sum(ends.values()) == 40
    assert ends["DatabaseError"] >= 10
    refusals = {"DatabaseError", "StorageMismatchError", "OtherRowsError"}  # the last: the recorded seal of a table
    assert set(ends) <= refusals | {"as if nothing had happened"}
