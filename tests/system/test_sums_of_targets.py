"""A life of a system that learns several numbers at once: from the table to the certificate, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.cli.quality_output import quality_line
from hybridmu.errors import ConfigError, DataError
from hybridmu.report.evaluation_page import page as evaluation_page
from hybridmu.report.metric_names import QUALITY, samples
from hybridmu.server.console_pages import quality_changes, quality_shown
from hybridmu.verifier.checks import check
from tests.support import replaced
from tests.system.test_sums_of_numbers import states

TARGETS = ["price", "rent", "sold"]


def made(rows=160, start=0, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 3)).clip(-3, 3).astype(np.float32)
    price = 1000 + 200 * x[:, 0] - 50 * x[:, 1] + 5 * draw.normal(size=rows)
    rent = 3 * x[:, 2] + 0.1 * draw.normal(size=rows)
    columns = {f"x{at}": x[:, at] for at in range(3)} | {"user": [f"person-{n}" for n in draw.integers(0, 40, rows)]}
    sold = (x[:, 1] > 0).astype(np.int8)
    return pa.table({"id": np.arange(start, start + rows), "price": price, "rent": rent, "sold": sold, **columns})


def write(path, table=None):
    pq.write_table(made() if table is None else table, path)
    return path


def config(folder, table, shards=1, **changes):
    raw = {
        "data": {
            "train": str(table),
            "target": TARGETS,
            "group": "user",
            "test_fraction": 0.25,
            "scale": {f"x{at}": 0.25 for at in range(3)},
        },
        "task": {"name": "ridge", "target_scale": {"price": 2.0**-11, "rent": 0.0625, "sold": 1.0}},
        "sisa": {"shards": shards, "slices": 1, "seed": 5},
        "policy": {"retention_seconds": 0},
        "storage_url": str(folder),
    }
    for name, value in changes.items():
        raw[name] = {**raw.get(name, {}), **value}
    return raw


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    raw = config(folder / "s", write(folder / "a.parquet"))
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    with hybridmu.connect(raw, executor="local") as system:
        assert system.train()["target"] == TARGETS
        yield system


def said(folder, *words):
    done = CliRunner().invoke(app, [*words, "-c", str(folder / "config.yaml")])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_answers_have_the_names_of_the_targets(living, tmp_path):
    rows = made(20, seed=9).to_pylist()
    found = living.predict(rows)["predictions"]
    for name, off in (("price", 40), ("rent", 1), ("sold", 1)):
        values = [one["values"][name] for one in found]
        np.testing.assert_allclose(values, [row[name] for row in rows], atol=off)
        assert [one["intervals"][name] for one in found] == [[value, value] for value in values], "merged: one model"
    table = living.predict(pa.Table.from_pylist(rows))
    assert table.column_names == ["id", *(f"{what}_{name}" for name in TARGETS for what in ("value", "low", "high"))]
    np.testing.assert_allclose(table["value_rent"].to_numpy(), [one["values"]["rent"] for one in found], rtol=1e-6)
    folder = tmp_path
    asked = [{name: row[name] for name in ("x0", "x1", "x2")} for row in rows[:2]]
    (folder / "config.yaml").write_text(yaml.safe_dump(living.settings.model_dump(mode="json", exclude_unset=True)))
    (folder / "rows.json").write_text(json.dumps(asked))
    lines = said(folder, "predict", str(folder / "rows.json")).splitlines()
    assert len(lines) == 2
    assert all(line.count("(sub-models ") == 3 and line.startswith("price ") for line in lines)
    said(folder, "predict", str(folder / "rows.json"), "--output", str(folder / "answers.csv"))
    assert (folder / "answers.csv").read_text().splitlines()[0].replace('"', "") == ",".join(table.column_names[1:])


def test_every_verb_tells_the_mean_and_each_target(living):
    quality = living.status()["quality"]
    ensemble = quality["test"]["ensemble"]
    for metric in ("r2", "rmse", "mae"):
        each = [ensemble[f"{metric} of {target}"] for target in TARGETS]
        assert ensemble[metric] == pytest.approx(np.mean(each))
    assert min(ensemble["r2 of price"], ensemble["r2 of rent"]) > 0.95 > ensemble["r2 of sold"] > 0.3
    assert quality_line(quality).startswith("R² 0.")
    assert re.search(r"on average \(price [01]\.\d+, rent ", quality_line(quality))
    plan = living.plan(ids=[3])
    assert "mean R² 0." in plan.quality.explain()
    assert dict(plan.quality.targets).keys() == {*TARGETS}
    assert [name for name, _ in quality_shown(quality)["figures"]] == ["R²", "RMSE"]
    assert quality_changes({"quality": {"before": quality, "after": quality}})
    told = {one.label: one.value for one in samples(living.vitals()) if one.metric is QUALITY}
    assert told["r2 of rent"] == ensemble["r2 of rent"]


def test_the_evaluation_has_residuals_of_each_target(living, tmp_path):
    found = living.evaluate()
    assert found["target"] == TARGETS
    test = found["splits"]["test"]
    assert test["targets"].keys() == {*TARGETS}
    assert test["ensemble"] == pytest.approx(living.status()["quality"]["test"]["ensemble"])
    assert all(sum(map(sum, one["predicted"]["counts"])) == test["rows"] for one in test["targets"].values())
    text = evaluation_page(found)
    assert text.count("<svg") == 2 * len(TARGETS)
    assert "of <code>rent</code>" in text
    assert "Per class" not in text
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(living.settings.model_dump(mode="json", exclude_unset=True)))
    shown = said(tmp_path, "evaluate", "--output", str(tmp_path / "page.html"))
    assert "of rent" in shown
    assert "residuals: " in shown


def test_rows_are_subtracted_purged_and_certified(tmp_path):
    table = write(tmp_path / "a.parquet")
    with hybridmu.connect(config(tmp_path / "a", table, 2), executor="local") as system:
        system.train()
        report = system.forget(ids=[3, 17], groups=["person-7"], strategy="subtract", wait=True)
        assert {shard["strategy"] for shard in report["shards"]} == {"subtract"}
        assert system.verify()["bitwise_equal"] is True
        system.run(until_idle=True)
        assert system.report(report["request_id"])["state"] == "PURGED"
        certificate = system.certificate(report["request_id"])
        assert check(certificate).ok
        gone = [row["user"] == "person-7" or row["id"] in {3, 17} for row in made().to_pylist()]
        write(tmp_path / "left.parquet", made().filter(pa.array([not one for one in gone])))
        with hybridmu.connect(config(tmp_path / "b", tmp_path / "left.parquet", 2), executor="local") as other:
            other.train()
            assert states(system) == states(other)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_subtraction_after_any_sequence_is_a_recount_to_the_bit(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    shards = data.draw(st.integers(1, 3), label="shards")
    penalty = data.draw(st.sampled_from(["auto", 1e-3]), label="penalty")
    table = made(60, seed=data.draw(st.integers(0, 99), label="seed"))
    changes = {"task": {"penalty": penalty}, "data": {"test_fraction": 0}}
    raw = config(folder / "a", write(folder / "a.parquet", table), shards, **changes)
    gone: set[int] = set()
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        if data.draw(st.booleans(), label="rows come in"):
            more = made(20, start=1000, seed=77)
            write(folder / "more.parquet", more)
            system.ingest(str(folder / "more.parquet"), wait=True)
            table = pa.concat_tables([table, more])
        for _ in range(data.draw(st.integers(1, 3), label="requests")):
            left = sorted({*table["id"].to_pylist()} - gone)
            asked = data.draw(st.lists(st.sampled_from(left), min_size=1, max_size=8, unique=True), label="ids")
            system.forget(ids=asked, strategy=data.draw(st.sampled_from(["subtract", "retrain", "auto"])), wait=True)
            gone |= {*asked}
        assert system.verify()["bitwise_equal"] is True
        found = system.predict(table.select(["x0", "x1", "x2"]))
    kept = table.filter(pa.array([row not in gone for row in table["id"].to_pylist()]))
    changes["sisa"] = {"shards": 1}
    raw = config(folder / "b", write(folder / "kept.parquet", kept), 1, **changes)
    with hybridmu.connect(raw, executor="local") as other:
        other.train()
        expected = other.predict(table.select(["x0", "x1", "x2"]))
    assert found.equals(expected), "shards that are merged answer as one machine"


@pytest.mark.parametrize("how", ["mean", "median"])
def test_shards_may_answer_each_for_itself(tmp_path, how):
    raw = config(tmp_path / "a", write(tmp_path / "a.parquet"), 3, serving={"aggregation": how})
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        rows = made(5, seed=3).to_pylist()
        for one in system.predict(rows)["predictions"]:
            for name, value in one["values"].items():
                low, high = one["intervals"][name]
                assert low <= value <= high
                assert low < high


def test_scales_that_are_left_out_suit_each_target_and_declared_ones_that_clip_are_told_of(tmp_path):
    table = write(tmp_path / "a.parquet")
    of_rent = 2.0 ** -np.ceil(np.log2(np.abs(made()["rent"].to_numpy()).max()))
    raw = config(tmp_path / "a", table)
    del raw["task"]["target_scale"]
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        chosen = {"price": 2.0**-11, "rent": of_rent, "sold": 1.0}
        assert system.settings.task.options["target_scale"] == chosen
    with hybridmu.connect(raw, executor="local") as again:
        assert again.settings.task.options["target_scale"] == chosen
    raw = config(tmp_path / "b", table, task={"target_scale": {"price": 2.0**-11, "rent": 1.0, "sold": 1.0}})
    with hybridmu.connect(raw, executor="local") as system:
        [warning] = [line for line in system.train()["warnings"] if "target" in line]
        assert "the target 'rent'" in warning
        assert f"task.target_scale.rent to {of_rent:.3g}" in warning


def test_a_list_of_one_is_that_one(tmp_path):
    table = write(tmp_path / "a.parquet")
    one = {"data": {"target": "price"}, "task": {"target_scale": 2.0**-11}}
    listed = {**one, "data": {"target": ["price"]}}
    with hybridmu.connect(config(tmp_path / "a", table, **one), executor="local") as system:
        system.train()
        assert "others" not in system.site.lineage_static()["encoder"]
    with hybridmu.connect(config(tmp_path / "a", table, **listed), executor="local") as system:
        assert system.status()["version"] == 1
        assert "value" in system.predict(made(1).to_pylist())["predictions"][0]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"data": {"target": []}}, ConfigError, "the list is empty"),
        ({"data": {"target": ["price", "price"]}}, ConfigError, "names 'price' twice"),
        ({"data": {"target": ["price", 7]}}, ConfigError, "target"),
        ({"data": {"features": ["x0", "rent"]}}, ConfigError, "names the column of data.target"),
        ({"data": {"target": ["price", "id"]}}, ConfigError, "data.id and data.target name the same column"),
        ({"data": {"target": ["price", "user"]}}, ConfigError, "data.target and data.group name the same column"),
        ({"data": {"target": ["price", "cost"]}}, DataError, "data.target names a column that is not in the table"),
        ({"data": {"target": ["price", "note"]}}, DataError, "'note' can't be a target"),
        ({"data": {"target": ["price", "flag"]}}, DataError, "int8, true and false"),
        ({"task": {"name": "mlp"}}, ConfigError, "task mlp learns one number"),
        ({"task": {"name": "lda"}}, ConfigError, "lda learns classes"),
        ({"task": {"name": "tests.core.tasks.test_regression_tasks:Wide"}}, ConfigError, "models link"),
        ({"task": {"target_scale": {"price": 1.0}}}, ConfigError, "the factor of every target"),
        ({"serving": {"aggregation": "vote"}}, ConfigError, "combined by mean or median"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, change, kind, says):
    table = made(30)
    table = table.append_column("note", pa.array(["x"] * 30)).append_column("flag", pa.array([True] * 30))
    raw = config(tmp_path / "a", write(tmp_path / "a.parquet", table), **change)
    if "target_scale" not in change.get("task", {}):
        del raw["task"]["target_scale"]
    with pytest.raises(kind) as error, hybridmu.connect(raw, executor="local") as system:
        system.train()
    assert says in str(error.value)


@pytest.mark.parametrize("target", ["price", "rent"])
@pytest.mark.parametrize(("wrong", "says"), [(None, "null"), (float("nan"), "nan"), (1e300, "too large")])
def test_a_row_without_one_of_them_is_refused_with_its_place(tmp_path, target, wrong, says):
    table = made(20)
    values = [*table[target].to_pylist()[:7], wrong, *table[target].to_pylist()[8:]]
    write(tmp_path / "a.parquet", replaced(table, target, pa.array(values, pa.float64())))
    raw = config(tmp_path / "a", tmp_path / "a.parquet")
    with pytest.raises(DataError) as error, hybridmu.connect(raw, executor="local") as system:
        system.train()
    assert f"target column '{target}'" in str(error.value)
    assert "row 8 of" in str(error.value)
    assert says in str(error.value)


def test_later_rows_lack_no_target(living, tmp_path):
    write(tmp_path / "more.parquet", made(10, start=5000).drop_columns(["rent"]))
    with pytest.raises(DataError, match="rent"):
        living.ingest(str(tmp_path / "more.parquet"))
