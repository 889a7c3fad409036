"""The scalability study: its tables are its files', its points are named once, and a small one is really measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.study import csvfile, limits, scaletables
from benchmarks.study.limits import Limit
from benchmarks.study.scaling import Point, Wanted
from jobs import scale

POINT = Point("strong", "waiting", 8, 1, 1, 8.0, 0, 4.0, 4.2, 4.0, 4.2, 8.0, 8.4, "two cores", "torch", "abc")


def test_every_point_is_wanted_once_and_seeds_only_add():
    everything = ["strong", "weak", "rate", "nodes"]
    one, three = scale.grid(everything, 1), scale.grid(everything, 3)
    assert len({wanted.key for wanted in three}) == len(three)
    assert set(one) <= set(three)
    assert {wanted.experiment for wanted in three} == set(everything)
    assert scale.grid(["rate"], 1) == [wanted for wanted in one if wanted.experiment == "rate"]


def test_a_measured_point_answers_a_wanted_one(tmp_path):
    wanted = Wanted("strong", "waiting", 8, 1, 8, 0)
    assert POINT.key == wanted.key
    csvfile.append(tmp_path / "scale.csv", [POINT], Point)
    (read,) = csvfile.read(tmp_path / "scale.csv", Point)
    assert read == POINT
    assert read.key == wanted.key


def test_tables_say_how_far_the_simulator_is_off(tmp_path):
    two = replace(POINT, workers=2, measured=2.0, predicted=2.5)
    # Other seeds are other requests: the middle of their errors counts, not the error of the middles.
    pairs = [(4.0, 4.8), (4.2, 3.99), (6.0, 5.7)]
    seeds = [replace(POINT, seed=n, measured=m, predicted=p) for n, (m, p) in enumerate(pairs)]
    csvfile.append(tmp_path / "scale.csv", [*seeds, two], Point)
    table = scaletables.points(tmp_path, "strong")
    assert "| waiting | 8 | 1 | 8 | 3 | 4.20 s | 4.80 s | -5 % | 1.00x |" in table
    assert "| waiting | 8 | 2 | 8 | 1 | 2.00 s | 2.50 s | +25 % | 2.10x |" in table
    judged = scaletables.judged(tmp_path, "")
    assert "| strong | waiting | 2 | 15 % | 25 % | 25 % |" in judged
    assert "missed by 1 of 2" in judged
    assert scaletables.draw(tmp_path).startswith("<")


@pytest.mark.parametrize("shards", [20])
def test_limits_are_measured_by_what_the_product_runs(shards, tmp_path):
    found = [*limits.planner(shards), *limits.ledger(shards)]
    assert [limit.step for limit in found] == [
        "plan",
        "simulate a day of 1,000 requests",
        "accept one id of every shard",
        "count what is revoked",
        "read the served version",
    ]
    assert all(0 < limit.seconds < 30 and limit.shards == shards for limit in found)
    csvfile.append(tmp_path / "limits.csv", found, Limit)
    assert "| plan | 20 |" in scaletables.steps(tmp_path, "")
