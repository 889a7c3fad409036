"""The quality of versions in the ledger."""

from __future__ import annotations

import pytest

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger.evaluations import Evaluations
from hybridmu.store.ledger.health import read_vitals
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import Quality, SplitQuality
from tests.store.ledger.test_registry import outcome, plan


def quality(version: int, accuracy: float | None = 0.5, split: str = "test") -> Quality:
    figures = {"accuracy": accuracy, "auc": None}
    return Quality(version, None, 0.25, (SplitQuality(split, 10, figures, {0: figures, 11: figures}),))


@pytest.fixture
def versions(engine, lease):
    """Return the token, and have three versions."""
    registry, token = Registry(engine), lease.acquire("me", 3600)
    registry.publish_training(token, [outcome(shard, 0) for shard in range(2)])
    for number in (1, 2):
        registry.publish(token, f"round-{number}", [], [(plan(1), outcome(1, number))])
    return token


def test_what_is_recorded_is_read_again(engine, versions):
    found = Evaluations(engine)
    assert found.newest() is None
    found.record(versions, quality(2))
    read = found.of([1, 2])
    assert read.keys() == {2}
    assert read[2].splits == quality(2).splits
    assert read[2].evaluated_at > 0
    assert found.newest() == read[2]


def test_the_first_record_of_a_version_stays(engine, versions):
    found = Evaluations(engine)
    found.record(versions, quality(1, 0.5))
    found.record(versions, quality(1, 0.9))
    assert found.of([1])[1].on("test").ensemble["accuracy"] == 0.5


def test_only_the_coordinator_records(engine, versions):
    with pytest.raises(LeaseLostError):
        Evaluations(engine).record(versions + 1, quality(1))
    assert Evaluations(engine).newest() is None


def test_the_newest_version_comes_first_and_those_before_the_first_never(engine, versions):
    found = Evaluations(engine)
    assert found.lacking() == 3
    found.record(versions, quality(2))
    assert (found.lacking(), found.awaits(3), found.awaits(2)) == (3, True, False)
    found.record(versions, quality(3))
    assert found.lacking() is None
    assert not found.awaits(3)


def test_nothing_is_awaited_where_nothing_was_ever_measured(engine, versions):
    assert not Evaluations(engine).awaits(3)


def test_changes_are_those_between_neighbours_on_one_table(engine, versions):
    found = Evaluations(engine)
    assert found.expected() is None
    for number, accuracy in ((1, 0.5), (2, 0.75), (3, 0.5)):
        found.record(versions, quality(number, accuracy))
    assert (found.expected().accuracy, found.expected().changes) == (0.5, (0.25, -0.25))
    assert found.expected(last=1).changes == (-0.25,)


def test_a_version_without_figures_is_no_number(engine, versions):
    found = Evaluations(engine)
    found.record(versions, Quality(3, None, 0.0))
    assert found.expected() is None
    assert read_vitals(engine).quality == {}
    assert found.lacking() is None


def test_vitals_show_the_test_table_and_what_is_defined(engine, versions):
    both = Quality(3, None, 0.0, (*quality(3, 0.9, "validation").splits, *quality(3, 0.5).splits))
    Evaluations(engine).record(versions, both)
    assert read_vitals(engine).quality == {"accuracy": 0.5}
