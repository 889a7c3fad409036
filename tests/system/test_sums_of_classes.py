"""Lives of systems that count classes: naive Bayes, and a penalty that is chosen again after every deletion."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.errors import ConfigError
from tests.system.test_sums_of_numbers import states

TASKS = [{"name": "naive-bayes"}, {"name": "lda", "penalty": "auto"}, {"name": "ridge", "penalty": "auto"}]


def write(path, rows=160):
    draw = np.random.default_rng(2)
    x = draw.normal(size=(rows, 3)).astype(np.float32)
    columns = {f"x{at}": x[:, at] for at in range(3)} | {"town": draw.choice(["A", "B", "C"], rows)}
    label = np.where(x[:, 0] + 0.5 * draw.normal(size=rows) > 0, "yes", "no")
    pq.write_table(pa.table({"id": range(rows), "label": label, **columns}), path)
    return path


def config(folder, table, task, shards=1):
    scale = {f"x{at}": 0.125 for at in range(3)}
    return {
        "data": {"train": str(table), "label": "label", "test_fraction": 0, "scale": scale,
                 "categories": {"town": ["A", "B", "C"]}},
        "task": task,
        "sisa": {"shards": shards, "slices": 1},
        "policy": {"retention_seconds": 1e9},
        "storage_url": str(folder),
    }  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["name"])
def test_subtraction_equals_training_on_what_is_left(tmp_path, task):
    table = write(tmp_path / "a.parquet")
    with hybridmu.connect(config(tmp_path / "a", table, task), executor="local") as system:
        system.train()
        for gone in ([3, 17, 40], [5]):
            report = system.forget(ids=gone, strategy="subtract", wait=True)
            assert {shard["strategy"] for shard in report["shards"]} == {"subtract"}
        assert system.verify()["bitwise_equal"]
        left = pq.read_table(table).filter(pa.array([row not in {3, 5, 17, 40} for row in range(160)]))
        pq.write_table(left, tmp_path / "left.parquet")
        with hybridmu.connect(config(tmp_path / "b", tmp_path / "left.parquet", task), executor="local") as other:
            other.train()
            assert states(system) == states(other)
        rows = left.to_pylist()
        right = [answer["label"] == row["label"] for answer, row in
                 zip(system.predict(rows)["predictions"], rows, strict=True)]  # fmt: skip
        assert np.mean(right) > 0.75


@pytest.mark.sampled
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["name"])
def test_shards_answer_as_one_machine(tmp_path, task):
    table = write(tmp_path / "a.parquet")
    rows = pq.read_table(table).slice(0, 20).to_pylist()
    answers = []
    for shards in (1, 3):
        with hybridmu.connect(config(tmp_path / f"s{shards}", table, task, shards), executor="local") as system:
            system.train()
            answers.append(system.predict(rows)["predictions"])
    assert answers[0] == answers[1]


def test_naive_bayes_learns_no_numbers(tmp_path):
    raw = config(tmp_path / "a", write(tmp_path / "a.parquet"), {"name": "naive-bayes"})
    del raw["data"]["label"]
    raw["data"]["target"] = "x0"
    with pytest.raises(ConfigError, match="naive-bayes learns classes"):
        hybridmu.connect(raw, executor="local")
