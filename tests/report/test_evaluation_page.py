"""The page of an evaluation shows every figure, and nothing from outside."""

from __future__ import annotations

import re

import pytest

from hybridmu.core.metrics import METRICS
from hybridmu.errors import StateError
from hybridmu.report.evaluation_page import headline, most_confused, page
from tests.support import local_system, make_table, table, write


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_table(folder / "train.parquet", 150)
    write(folder, table(60, start=1000, seed=1), "test.parquet")
    with local_system(folder, data={"test": str(folder / "test.parquet")}) as system:
        system.train()
        yield system.evaluate()


def test_every_figure_is_on_the_page(result):
    made = page(result)
    found = result["splits"]["test"]
    for figures in (found["ensemble"], *found["sub_models"]):
        for name in (name for name, one in METRICS.items() if one.kind == "classification"):
            assert f"{figures[name]:.4f}" in made
    assert made.count("<svg") == 2
    assert made.index(headline(result)) < made.index("<h2>")
    assert f"{found['rows']} test rows" in made
    assert not re.search(r'(src|href)="(?!#|data:)', made)


def test_it_leads_with_two_figures_in_one_sentence(result):
    accuracy, loss = (result["splits"]["test"]["ensemble"][name] for name in ("accuracy", "log_loss"))
    said = f"Version 1 reaches accuracy {accuracy:.1%} and log loss {loss:.3f} on 60 test rows."
    assert headline(result).replace(" %", "%") == said


def test_a_curve_of_one_point_is_not_drawn(result):
    test = result["splits"]["test"]
    one = {**result, "splits": {"test": {**test, "calibration": test["calibration"][:1]}}}
    assert page(one).count("<svg") == 1


def test_the_matrix_counts_every_row(result):
    found = result["splits"]["test"]
    assert sum(map(sum, found["confusion"])) == found["rows"] == sum(found["labels"])
    assert [sum(line) for line in found["confusion"]] == found["labels"]
    right = sum(line[at] for at, line in enumerate(found["confusion"]))
    assert right / found["rows"] == pytest.approx(found["ensemble"]["accuracy"])
    assert sum(one["rows"] for one in found["calibration"]) == found["rows"]


def test_a_name_can_not_write_html(result):
    odd = {**result, "classes": ["<script>alert(1)</script>", "b", "c"]}
    made = page(odd)
    assert "<script>" not in made


def test_the_most_frequent_mistakes_come_first():
    matrix = [[5, 1, 3], [2, 9, 0], [0, 0, 4]]
    assert [one["rows"] for one in most_confused(matrix, ["a", "b", "c"])] == [3, 2, 1]


def test_without_held_out_rows_the_error_says_what_to_do(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    with local_system(tmp_path) as system:
        system.train()
        with pytest.raises(StateError, match="no row is held out"):
            system.evaluate()
