"""The suite of tables: our defaults beside scikit-learn's models, and what is made of the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.run_suite import compared
from benchmarks.study import csvfile
from benchmarks.suite.figure import quality_against_price
from benchmarks.suite.records import RIVALS, Result, newest, shards, suite
from benchmarks.suite.tables import SOURCES, cuts

CLASSES = Result(
    **{"run": "2026-11-30T12:00:00+00:00", "table": "rows", "changes": "", "rows": 1_000, "cuts": 1, "deviation": None},
    **{"shards": 2, "slices": 4, "epochs": 40, "batch_size": 32, "ours": 90.0},
    **{"linear": 80.0, "mlp": 90.9, "boosting": 91.5, "train_seconds": 3.0, "forget_seconds": 0.5},
    **{"linear_seconds": 0.1, "mlp_seconds": 2.0, "boosting_seconds": 1.0},
    **{"hardware": "h", "versions": "v", "commit": "c"},
)
NUMBERS = replace(CLASSES, table="prices", deviation=2.0, ours=1.0, linear=1.5, mlp=0.8, boosting=None)


def lines(page):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]


def test_points_are_of_accuracy_or_of_r2_and_the_goal_depends_on_the_best(tmp_path):
    csvfile.append(tmp_path / "suite.csv", [replace(CLASSES, ours=1.0), NUMBERS, CLASSES], Result)
    head, _, rows, prices = lines(suite(tmp_path, ""))
    behind = head.index("points behind the best")
    assert rows[behind] == "**+1.5**", "within two points of boosting; the newest line counts"
    assert prices[behind] == "+9.0 (missed)", "R² is 75 % and 84 %"
    assert (prices[head.index("boosting")], prices[head.index("MLP")]) == ("–", "0.8")
    assert suite(tmp_path, "").endswith("Made by: h; v; commit c; 2026-11-30.")


def test_shards_stand_beside_each_other(tmp_path):
    found = [replace(CLASSES, shards=count, ours=95.0 - count, forget_seconds=1 / count) for count in (4, 1)]
    csvfile.append(tmp_path / "shards.csv", [replace(each, changes=f"S{each.shards}") for each in found], Result)
    head, _, row = lines(shards(tmp_path, ""))
    assert head[2:] == ["S = 1", "S = 4"]
    assert row[2:] == ["94.0 %, 1.00 s", "91.0 %, 0.25 s"]
    assert quality_against_price(tmp_path).count("S = ") >= 2


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # so many epochs need not be enough
def test_a_table_is_learned_by_all_on_the_same_rows():
    found = compared(SOURCES["iris"], ["sisa.epochs=20", "sisa.slices=2"])
    assert (found.rows, found.cuts, found.shards, found.slices, found.epochs) == (120, 5, 1, 2, 20)
    assert all(getattr(found, name) > 80 for name in ("ours", *RIVALS))
    assert all(getattr(found, f"{name}_seconds") > 0 for name in ("train", "forget", *RIVALS))
    assert found.changes == "sisa.epochs=20 sisa.slices=2"


@pytest.mark.parametrize("name", ["iris", "autompg"])
def test_cuts_share_no_row_and_leave_none_out(name):
    parts = cuts(SOURCES[name])
    assert len(parts) == 5
    for train, test in parts:
        ids = [*train["id"].to_pylist(), *test["id"].to_pylist()]
        assert sorted(ids) == list(range(len(ids)))
        assert 0.05 < len(test) / len(ids) < 0.4
    assert len({tuple(test["id"].to_pylist()) for _, test in parts}) == 5


def test_the_newest_result_of_each_table_counts(tmp_path):
    csvfile.append(tmp_path / "x.csv", [CLASSES, NUMBERS, replace(CLASSES, ours=91.0)], Result)
    assert [(each.table, each.ours) for each in newest(tmp_path / "x.csv")] == [("rows", 91.0), ("prices", 1.0)]
