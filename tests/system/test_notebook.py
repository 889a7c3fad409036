"""`hybridmu.fit`: from a frame to a system that forgets, without a file of the user's."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import hybridmu
from hybridmu.errors import ConfigError, DataError, HybridMUError, RequestError, StateError

ROWS = 240


def columns() -> dict:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 2))
    return {
        "person": [f"p{n % 40}" for n in range(ROWS)],
        "height": 100 * x[:, 0],
        "width": x[:, 1],
        "churned": np.where(x[:, 0] > 0, "yes", "no"),
    }


FRAMES = {
    "pandas": lambda: pd.DataFrame(columns()),
    "polars": lambda: pl.DataFrame(columns()),
    "Arrow": lambda: pa.table(columns()),
    "a record batch": lambda: pa.table(columns()).to_batches()[0],
    "a reader": lambda: pa.table(columns()).to_reader(),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_becomes_a_system_that_forgets(kind, tmp_path):
    with hybridmu.fit(
        FRAMES[kind](), label="churned", group="person", task="lda", path=tmp_path / "churn", executor="local",
        policy={"retention_seconds": 0},
    ) as system:  # fmt: skip
        assert system.status()["version"] == 1
        assert system.evaluate()["splits"]["test"]["ensemble"]["accuracy"] > 0.8
        asked = pd.DataFrame({"height": [150.0, -150.0], "width": [0.0, 0.0]})
        assert system.predict(asked)["label"].tolist() == ["yes", "no"]
        done = system.forget(groups=["p3"], wait=True)
        assert done["state"] in {"SERVED", "PURGED"}
        assert system.verify()["bitwise_equal"] is True
        system.run(until_idle=True)
        certificate = system.certificate(done["request_id"])
        assert certificate["request"]["id"] == done["request_id"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if "p3\x00" in path.name or (path.suffix == ".parquet" and "rows" in path.name)]
    configuration = tmp_path / "churn.yaml"
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    with hybridmu.connect(configuration, executor="local") as again:
        assert again.forget(ids=[0], wait=True)["state"] in {"SERVED", "PURGED"}


def test_columns_are_found_by_their_names_and_sections_are_passed_on(tmp_path):
    frame = pd.DataFrame(columns()).rename(columns={"churned": "label"})
    frame["id"] = [f"row-{n}" for n in range(ROWS)]
    sections = {"sisa": {"shards": 2, "slices": 2, "epochs": 3}, "optimizer": {"name": "sgd"}}
    task = {"name": "mlp", "hidden": [4]}
    with hybridmu.fit(frame, path=tmp_path / "s", task=task, executor="local", **sections) as system:
        assert len(system.registry.version().shards) == 2
        assert system.settings.task.options == {"hidden": [4]}
        assert system.forget(ids=["row-7"], wait=True)["state"] == "SERVED"


def test_categories_of_polars_are_texts(tmp_path):
    frame = pl.DataFrame(columns()).with_columns(kind=pl.Series(["a", "b"] * 120, dtype=pl.Categorical))
    with hybridmu.fit(frame, label="churned", path=tmp_path / "s", task="lda", executor="local") as system:
        plain = frame.with_columns(pl.col("kind").cast(pl.String))
        assert system.predict(frame).equals(system.predict(plain))


def test_numbers_are_learned_too(tmp_path):
    frame = pd.DataFrame(columns()).drop(columns="churned")
    with hybridmu.fit(frame, target="height", path=tmp_path / "s", executor="local") as system:
        assert system.settings.data.target == "height"


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"rows": [{"a": 1}]}, RequestError, "rows is not a frame"),
        ({"rows": pd.DataFrame({"x": [1, "a", b"b"], "label": [0, 1, 0]})}, DataError, "the frame can't be read"),
        ({"rows": pd.DataFrame([[1, 2]], columns=["a", "a"])}, DataError, "two columns of the frame have one name"),
        ({"label": "churn"}, DataError, "the frame has no column 'churn'"),
        ({"group": "people"}, DataError, "the frame has no column 'people'"),
        ({"task": "lds"}, ConfigError, "unknown task 'lds'"),
        ({"sisa": {"shard": 3}}, ConfigError, "the nearest known one is 'shards'"),
        ({"shards": 3}, ConfigError, "unknown key 'shards'"),
        ({"data": 3}, RequestError, "data is not a mapping"),
        ({"data": {"id": "person"}}, RequestError, r"data\.id is said twice"),
        ({"data": {"train": "t.csv"}}, RequestError, r"data\.train is said twice"),
        ({"sisa": {"shards": np.int64(100)}}, HybridMUError, "min_rows"),
        ({"target": "width"}, HybridMUError, "target"),
        ({"rows": pd.DataFrame(columns()).head(9)}, HybridMUError, "min_rows"),
        ({"label": "height"}, DataError, "label"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(change, error, says, tmp_path):
    asked = {"rows": pd.DataFrame(columns()), "label": "churned", "path": tmp_path / "s", "executor": "local", **change}
    with pytest.raises(error, match=says):
        hybridmu.fit(asked.pop("rows"), **asked)
    assert empty(tmp_path)


def test_a_system_that_is_there_is_left_alone(tmp_path):
    for name in ("s.yaml", "s.rows.parquet", "s-keys", "s"):
        mine = tmp_path / name
        mine.write_text("mine")
        with pytest.raises(StateError, match=f"{re.escape(name)} exists"):
            hybridmu.fit(pd.DataFrame(columns()), label="churned", path=tmp_path / "s", executor="local")
        assert mine.read_text() == "mine"
        mine.unlink()
    assert empty(tmp_path)


def test_the_path_is_where_the_system_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", str(tmp_path / "elsewhere"))
    with pytest.raises(RequestError, match="HYBRIDMU_STORAGE_URL"):
        hybridmu.fit(pd.DataFrame(columns()), label="churned", path=tmp_path / "s", executor="local")
    assert empty(tmp_path)


def test_a_training_that_fails_leaves_no_row_behind(tmp_path, monkeypatch):
    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridmu.core.learners.additive.Additive.fit", fails)
    with pytest.raises(KeyboardInterrupt):
        hybridmu.fit(pd.DataFrame(columns()), label="churned", task="lda", path=tmp_path / "s", executor="local")
    assert empty(tmp_path)
