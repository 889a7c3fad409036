"""Judgement of a strategy over seeds: against the retrain of its own run, by gaps whose signs don't cancel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.study.comparison import Comparison, compare, noise_of
from benchmarks.study.records import Record

RECORD = Record(
    dataset="digits",
    model="mlp",
    shards=2,
    slices=2,
    epochs=2,
    mix="share:0.1",
    strategy="sisa",
    seed=0,
    rows=100,
    revoked=10,
    touched=2,
    workers=1,
    wall_seconds=8.0,
    device_seconds=16.0,
    cpu_seconds=16.0,
    repair_seconds=0.0,
    visits=100,
    estimated_seconds=None,
    rules="",
    accuracy=0.9,
    oracle_accuracy=0.9,
    forget_loss=1.0,
    oracle_forget_loss=1.0,
    noise_gap=0.01,
    noise_accuracy=0.0,
    forget_accuracy=0.9,
    oracle_forget_accuracy=0.9,
    retain_accuracy=0.9,
    oracle_retain_accuracy=0.9,
    tow=1.0,
    bitwise=2,
    commit="one",
)


def measured(gaps, nothing=0.5, **fields):
    """Return records of the retrain, of `dpus` with these gaps, and of doing nothing, a seed each."""
    found = []
    for seed, gap in enumerate(gaps):
        exact = replace(RECORD, seed=seed)
        update = {"wall_seconds": 0.5, "device_seconds": 1.0, "cpu_seconds": 1.0, "repair_seconds": 16.0, **fields}
        found += [exact, replace(exact, strategy="dpus", forget_loss=1.0 + gap, **update)]
        found.append(replace(exact, strategy="nothing", forget_loss=1.0 - nothing, wall_seconds=0.0, cpu_seconds=0.0))
    return found


def test_gaps_of_both_signs_do_not_cancel():
    found = compare(measured([0.05, -0.05]), "dpus")
    assert (found.off, found.inside, found.missed) == (pytest.approx(5.0), 0, ["gap"])
    assert compare(measured([0.019, -0.019]), "dpus").verdict == "**met**"


def test_repairs_are_added_and_speed_is_over_the_retrain():
    found = compare(measured([0.0]), "dpus")
    assert (found.wall, found.processor, found.repaired) == ((16.0,), (16.0,), (16 / 17,))


def test_where_doing_nothing_is_near_enough_a_gap_says_nothing():
    assert "says nothing" in compare(measured([0.0], nothing=0.015), "dpus").verdict
    assert compare(measured([0.0], nothing=0.03), "dpus").verdict == "**met**"
    assert "says nothing" not in compare(measured([0.1], nothing=0.015), "dpus").verdict, "it is missed all the same"


@pytest.mark.parametrize(
    ("fields", "missed"), [({"accuracy": 0.89}, ["accuracy"]), ({"wall_seconds": 2.0}, ["time"]), ({}, [])]
)
def test_what_is_missed(fields, missed):
    assert compare(measured([0.0, 0.0], **fields), "dpus").missed == missed


def test_seconds_of_different_commits_are_not_compared():
    with pytest.raises(ValueError, match="measured by commit two"):
        compare(measured([0.0], commit="two"), "dpus")


def test_what_was_not_measured_is_not_compared():
    assert compare(measured([0.0]), "rewind") is None
    found = compare([r for r in measured([0.0]) if r.strategy != "nothing"], "dpus")
    assert isinstance(found, Comparison)
    assert found.telling


def test_doing_nothing_is_free():
    assert compare(measured([0.0]), "nothing").wall == (float("inf"),)


def test_noise_counts_every_seed_once():
    rows = [replace(RECORD, seed=0, noise_gap=0.03), replace(RECORD, seed=0, noise_gap=0.03)]
    assert noise_of([*rows, replace(RECORD, seed=1, noise_gap=-0.04)]) == pytest.approx((0.5 * 0.0025) ** 0.5)
