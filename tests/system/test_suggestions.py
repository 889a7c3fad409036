"""The price list of forgetting: trials of other ways to train, which leave nothing behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.errors import StateError
from hybridmu.report.price_page import headline, page
from hybridmu.system import suggestions
from tests.support import make_table, settings_dict, table, write


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prices")
    make_table(folder / "train.parquet", 240, groups=40, null_groups=20)
    write(folder, table(60, start=1000, seed=1, groups=40), "test.parquet")
    data = {"test": str(folder / "test.parquet"), "group": "person"}
    return settings_dict(folder, data=data, sisa={"shards": 2, "slices": 2, "epochs": 2})


@pytest.fixture(scope="module")
def result(raw):
    before = set(Path(tempfile.gettempdir()).glob("hybridmu-suggest-*"))
    seen = []
    with hybridmu.connect(raw, executor="local") as system:
        found = system.suggest(seconds=1e9, watch=lambda *args: seen.append(args))
    assert set(Path(tempfile.gettempdir()).glob("hybridmu-suggest-*")) <= before, "nothing is left"
    assert not Path(raw["storage_url"]).exists(), "the system itself is neither needed nor made"
    assert [done for done, _, _ in seen] == list(range(len(found["offers"])))
    return found


def test_every_way_has_a_quality_and_a_price(result):
    names = [offer["name"] for offer in result["offers"]]
    assert {"S2-R2", "S1-R1", "S4-R2-adamw"} <= set(names)
    assert (result["rows"], result["share"], result["untried"]) == (240, 1.0, [])
    for offer in result["offers"]:
        assert 0.3 < offer["score"] <= 1.0
        assert offer["row"]["device_seconds"] > 0
        assert offer["person"]["device_seconds"] >= offer["person"]["seconds"]
        assert offer["measured_seconds"] > 0
    accuracies = [offer["score"] for offer in result["offers"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert any(offer["front"] for offer in result["offers"])
    json.dumps(result)


def test_the_page_names_every_way(result):
    made = page(result)
    assert all(offer["name"] in made for offer in result["offers"])
    assert "<svg" in made
    best = [offer["name"] for offer in result["offers"] if offer["front"]]
    said = headline(result)
    assert said.startswith("On 240 rows, forgetting a person costs ")
    assert best[0] in said
    assert made.index(said) < made.index("<table>")
    assert made.count('<tr class="strong">') == len(best)


def test_one_way_alone_is_no_picture(result):
    alone = {**result, "offers": [{**result["offers"][0], "front": True}]}
    assert "<svg" not in page(alone)
    assert " down to " not in headline(alone)


def test_a_sample_holds_all_rows_of_a_person_or_none(raw, tmp_path, monkeypatch):
    kept = []

    def look(settings, facts, candidate, tables, share):
        kept.append(pq.read_table(tables["train"]))
        raise InterruptedError

    monkeypatch.setattr(suggestions, "_tried", look)
    with hybridmu.connect(raw, executor="local") as system, pytest.raises(InterruptedError):
        system.suggest(rows=120)
    every, some = pq.read_table(raw["data"]["train"]), kept[0]
    assert 40 < len(some) < 200
    whole = {row["person"]: 0 for row in every.to_pylist()}
    for row in every.to_pylist():
        whole[row["person"]] += 1
    counts = pa.compute.value_counts(some["person"].drop_null()).to_pylist()
    assert all(whole[one["values"]] == one["counts"] for one in counts)
    assert 0 < some["person"].null_count < every["person"].null_count, "who has no person stands for himself"


def test_when_the_time_is_up_the_rest_is_named(raw):
    with hybridmu.connect(raw, executor="local") as system:
        found = system.suggest(seconds=1e-6)
    assert [offer["name"] for offer in found["offers"]] == ["S2-R2"]
    assert "S1-R1" in found["untried"]


def test_one_file_is_enough(tmp_path):
    make_table(tmp_path / "train.parquet", 200)
    raw = settings_dict(tmp_path, sisa={"shards": 2, "slices": 1, "epochs": 2})
    del raw["data"]["test_fraction"]
    with hybridmu.connect(raw, executor="local") as system:
        (offer,) = system.suggest(seconds=1e-6)["offers"]
    assert 0.3 < offer["score"] <= 1.0


def test_where_numbers_are_learned_ways_are_compared_by_r2(tmp_path):
    made = table(240)
    numbers = pa.array([2.0 * row["x0"] + row["label"] for row in made.to_pylist()])
    write(tmp_path, made.drop_columns(["label"]).append_column("price", numbers))
    raw = settings_dict(
        tmp_path,
        data={"target": "price", "test_fraction": 0.2},
        sisa={"shards": 2, "slices": 1, "epochs": 5},
        optimizer={"lr": 0.05},
    )
    with hybridmu.connect(raw, executor="local") as system:
        found = system.suggest(seconds=1e-6)
    (offer,) = found["offers"]
    assert found["metrics"] == ["r2", "rmse"]
    assert 0.0 < offer["score"] <= 1.0
    assert offer["loss"] > 0
    assert "R²" in page(found)


def test_without_held_out_rows_no_way_is_better(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    system = hybridmu.connect(settings_dict(tmp_path, data={"test_fraction": 0.0}), executor="local")
    with system, pytest.raises(StateError, match="no row is held out"):
        system.suggest()


def test_what_is_picked_is_a_configuration_that_trains(raw, tmp_path):
    config, picked = tmp_path / "config.yaml", tmp_path / "picked.yaml"
    config.write_text(yaml.safe_dump(raw))
    words = ["suggest", "-c", str(config), "--seconds", "1e-6", "--output", str(tmp_path / "p.html")]
    wrong = CliRunner().invoke(app, [*words, "--pick", "S9-R9", "--write", str(picked)])
    assert wrong.exit_code == 2
    assert not picked.exists()
    done = CliRunner().invoke(app, [*words, "--pick", "S2-R2", "--write", str(picked)])
    assert done.exit_code == 0, done.output
    assert "not tried, for want of time" in done.stdout
    assert yaml.safe_load(picked.read_text())["sisa"] == raw["sisa"]
    hybridmu.load(picked)
    again = CliRunner().invoke(app, [*words, "--pick", "S2-R2", "--write", str(picked)])
    assert "is there already" in again.output


def test_sums_are_priced_by_what_a_subtraction_takes(raw):
    sums = {**raw, "task": {"name": "lda"}, "sisa": {"shards": 2, "slices": 1}}
    sums.pop("optimizer", None)
    with hybridmu.connect(sums, executor="local") as system:
        found = system.suggest(seconds=1e9)
    names = [offer["name"] for offer in found["offers"]]
    assert names
    assert not [name for name in names if name.endswith("adamw")]
    assert len({offer["score"] for offer in found["offers"] if "R1" in offer["name"]}) == 1, "shards cost no accuracy"
    assert all(offer["row"]["device_seconds"] > 0 for offer in found["offers"])
