"""Life of a system that learns numbers: trained, asked, forgotten by updates and retrains, audited, purged, proven."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.cli.quality_output import quality_line
from hybridmu.errors import ConfigError, DataError
from hybridmu.report.audit_page import page as audit_page
from hybridmu.report.evaluation_page import page as evaluation_page
from hybridmu.runtime.audit.replay import Verdict, replay
from hybridmu.server.console_pages import quality_changes, quality_shown
from hybridmu.types import RequestState
from tests.scenes.purged_system import World
from tests.support import replaced

FEATURES = ["a", "b", "c"]


def made(rows: int, *, start: int = 0, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).astype(np.float32)
    price = 2e5 + 5e4 * (x[:, 0] - 0.5 * x[:, 1]) + 5e3 * random.normal(size=rows)
    return pa.table({
        "id": np.arange(start, start + rows),
        "user": [f"household-{n}" for n in random.integers(0, 30, rows)],
        **{name: x[:, number] for number, name in enumerate(FEATURES)},
        "price": price,
    })


def config_in(folder: Path, **overrides) -> dict:
    raw = {
        "data": {
            **{split: str(folder / f"{split}.parquet") for split in ("train", "validation", "test")},
            **{"id": "id", "group": "user", "target": "price", "features": FEATURES},
        },
        "task": {"name": "mlp", "hidden": [6]},
        "sisa": {"shards": 3, "slices": 3, "epochs": 4, "batch_size": 8, "seed": 5},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "policy": {"verify_share": 1.0, "light_seconds": 0.0, "time_ratio": 1e-9, "retention_seconds": 0},
        "serving": {"aggregation": "median"},
        "storage_url": str(folder / "storage"),
    }
    for name, value in overrides.items():
        raw[name] = {**raw.get(name, {}), **value}
    return raw


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    for number, (split, rows) in enumerate({"train": 240, "validation": 40, "test": 60}.items()):
        pq.write_table(made(rows, start=number * 1000, seed=number), folder / f"{split}.parquet")
    config = config_in(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        trained = system.train(calibrate=True)
        assert trained["target"] == "price"
        assert "classes" not in trained
        assert trained["calibrated"] is True
        yield World(system, config, folder / "train.parquet")


def said(world: World, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "-c", str(world.table.parent / "config.yaml")])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_answers_are_values_with_the_spread_of_the_sub_models(world):
    rows = pq.read_table(world.table.parent / "test.parquet").to_pylist()
    answer = world.system.predict(rows)
    version = world.system.registry.version()
    models = [world.system.site.load_model(sub.shard, sub.blob) for sub in version.shards]
    x = torch.from_numpy(world.system.site.lake.manifest.encoder.encode(pa.Table.from_pylist(rows)))
    with torch.no_grad():
        values = np.stack([model(x)[:, 0].numpy() for model in models])
    for place, prediction in enumerate(answer["predictions"]):
        assert prediction["value"] == pytest.approx(float(np.median(values[:, place])), rel=1e-5)
        assert prediction["interval"] == pytest.approx([values[:, place].min(), values[:, place].max()], rel=1e-5)
    right = np.array([row["price"] for row in rows])
    found = np.array([one["value"] for one in answer["predictions"]])
    assert 1 - ((found - right) ** 2).sum() / ((right - right.mean()) ** 2).sum() > 0.5
    file = world.table.parent / "rows.json"
    file.write_text(json.dumps(rows[:2]))
    assert said(world, "predict", str(file)).count("(sub-models ") == 2


def test_the_evaluation_has_residuals_and_no_classes(world):
    found = world.system.evaluate()
    test = found["splits"]["test"]
    assert found["target"] == "price"
    assert "classes" not in found
    assert set(test["ensemble"]) == {"r2", "rmse", "mae"}
    assert sum(map(sum, test["predicted"]["counts"])) == test["rows"] == sum(test["residuals"]["counts"])
    text = evaluation_page(found)
    assert text.count("<svg") == 4
    assert "confidence interval" in text
    assert "Per class" not in text
    measured = said(world, "evaluate", "--output", str(world.table.parent / "evaluation.html"))
    assert "RMSE" in measured
    assert "residuals: " in measured


def test_every_verb_tells_r2_and_rmse(world):
    quality = world.system.status()["quality"]
    assert quality_line(quality).startswith("R² 0.")
    shown = quality_shown(quality)
    assert [name for name, _ in shown["figures"]] == ["R²", "RMSE"]
    assert "R² 0." in said(world, "plan", "--id", "3")
    both = {"quality": {"before": quality, "after": quality}}
    assert [one[1] for one in quality_changes(both)] == ["R²", "R²"]


def test_an_audit_looks_at_signed_residuals(world):
    found = world.system.audit(strategy="retrain", models=3, shards=1, share=0.2)
    assert found["figure"] == "skill"
    assert (found["figures"]["gap"]["unlearned"], found["figures"]["tow"]["unlearned"]) == (0.0, 1.0)
    assert "every skill is the oracle" in audit_page(found)


def test_rows_are_forgotten_by_updates_and_retrains_purged_and_proven(world):
    ids = pq.read_table(world.table)["id"].to_pylist()
    plan = world.system.plan(ids=[ids[0]], strategy="dpus-newton")
    assert [one.strategy for one in plan.shards] == ["dpus-newton"]
    asked = [
        world.forget([ids[0]], strategy="dpus-newton", wait=True),
        world.forget([ids[1]], strategy="dpus", wait=True),
        world.forget([ids[2]], groups=["household-3"]),
    ]
    world.run()
    assert all(sub.exact for sub in world.system.registry.version().shards)
    world.assert_exact()
    assert world.system.verify()["bitwise_equal"] is True
    assert [world.state(name) for name in asked] == [RequestState.PURGED] * 3
    world.assert_nothing_left(ids[:3], ["household-3"])
    documents = world.assert_certified(*asked)
    assert replay(world.system.settings, documents[-1]).verdict is Verdict.CONFIRMED
    assert "skill 0." in said(world, "verify", "--shard", "0")


WRONG = {
    "both": ({"data": {"label": "a", "target": "price"}}, ConfigError, "not both"),
    "classes": ({"data": {"classes": ["a", "b"]}}, ConfigError, "data.classes belongs to data.label"),
    "votes": ({"serving": {"aggregation": "vote"}}, ConfigError, "combined by mean or median"),
    "a rule of classes": ({"policy": {"class_excess": 0.5}}, ConfigError, "policy.class_excess speaks of classes"),
    "a feature": ({"data": {"features": ["a", "price"]}}, ConfigError, "names the column of data.target"),
    "the id": ({"data": {"target": "id"}}, ConfigError, "data.id and data.target name the same column"),
    "no column": ({"data": {"target": "cost"}}, DataError, "data.target names a column that is not in the table"),
    "text": ({"data": {"target": "note"}}, DataError, "'note' can't be a target"),
    "an unknown loss": ({"task": {"loss": "log"}}, ConfigError, "one of mse, huber, quantile"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, case):
    overrides, kind, says = WRONG[case]
    for split in ("train", "validation", "test"):
        pq.write_table(made(20).append_column("note", pa.array(["x"] * 20)), tmp_path / f"{split}.parquet")
    with pytest.raises(kind) as error, hybridmu.connect(config_in(tmp_path, **overrides), executor="local") as system:
        system.train()
    assert says in str(error.value)


def test_a_task_of_ones_own_learns_numbers_too(tmp_path):
    for split in ("train", "validation", "test"):
        pq.write_table(made(60), tmp_path / f"{split}.parquet")
    config = config_in(tmp_path, sisa={"shards": 1, "slices": 2}, policy={"calibrate": False})
    config["task"] = {"name": "tests.core.tasks.test_regression_tasks:Wide", "loss": "quantile", "quantile": 0.9}
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        assert "no curvature" in system.site.unfit_updates()["dpus-newton"]
        values = [one["value"] for one in system.predict(made(60).to_pylist())["predictions"]]
    below = np.mean(np.array(values) > made(60)["price"].to_numpy())
    assert below > 0.5, "more targets lie below their quantile of 0.9 than above"


def test_classes_are_not_combined_by_a_median(tmp_path):
    with pytest.raises(ConfigError, match="combined by mean or vote"):
        hybridmu.connect({**config_in(tmp_path), "data": {"train": "t.parquet"}}, executor="local")


@pytest.mark.parametrize(("wrong", "says"), [(None, "null"), (float("nan"), "nan"), (float("-inf"), "inf")])
def test_a_row_without_a_target_is_refused_with_its_place(tmp_path, wrong, says):
    for split in ("train", "validation", "test"):
        pq.write_table(made(20), tmp_path / f"{split}.parquet")
    table = made(20)
    prices = [*table["price"].to_pylist()[:7], wrong, *table["price"].to_pylist()[8:]]
    pq.write_table(replaced(table, "price", pa.array(prices, pa.float64())), tmp_path / "train.parquet")
    with pytest.raises(DataError) as error, hybridmu.connect(config_in(tmp_path), executor="local") as system:
        system.train()
    assert "target column 'price'" in str(error.value)
    assert "row 8 of" in str(error.value)
    assert says in str(error.value)
