"""A life of a system that learns numbers by integer sums: subtraction, shards that add up, and declared scales."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.errors import ConfigError


def write(path, rows=120, start=0, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 3)).astype(np.float32)
    price = 1000 + 200 * x[:, 0] - 50 * x[:, 1] + 5 * draw.normal(size=rows)
    columns = {f"x{at}": x[:, at] for at in range(3)}
    pq.write_table(pa.table({"id": range(start, start + rows), "price": price, **columns}), path)
    return path


def config(folder, table, **changes):
    return {
        "data": {
            "train": str(table),
            "target": "price",
            "test_fraction": 0,
            "scale": {f"x{at}": 0.125 for at in range(3)},
        },
        "task": {"name": "ridge", "target_scale": 2.0**-11},
        "sisa": {"shards": 1, "slices": 1, "seed": 5},
        "policy": {"retention_seconds": 1e9},
        "storage_url": str(folder),
        **changes,
    }


def states(system):
    blobs = [sub.blob for sub in system.registry.version().shards]
    return [{name: value.numpy().tobytes() for name, value in system.site.blobs.get(blob).items()} for blob in blobs]


def test_subtraction_equals_training_on_what_is_left_and_answers_prices(tmp_path):
    table = write(tmp_path / "a.parquet")
    with hybridmu.connect(config(tmp_path / "a", table), executor="local") as system:
        system.train()
        report = system.forget(ids=[3, 17, 40], strategy="subtract", wait=True)
        assert {shard["strategy"] for shard in report["shards"]} == {"subtract"}
        assert system.verify()["bitwise_equal"]
        left = pq.read_table(table).filter(pa.array([row not in {3, 17, 40} for row in range(120)]))
        pq.write_table(left, tmp_path / "left.parquet")
        with hybridmu.connect(config(tmp_path / "b", tmp_path / "left.parquet"), executor="local") as other:
            other.train()
            assert states(system) == states(other)
        rows = left.slice(0, 20).to_pylist()
        values = [answer["value"] for answer in system.predict(rows)["predictions"]]
        np.testing.assert_allclose(values, [row["price"] for row in rows], atol=40)


def test_shards_answer_as_one_machine(tmp_path):
    table = write(tmp_path / "a.parquet")
    rows = pq.read_table(table).slice(0, 20).to_pylist()
    answers = []
    for shards in (1, 3):
        raw = config(tmp_path / f"s{shards}", table, sisa={"shards": shards, "slices": 1, "seed": 5})
        with hybridmu.connect(raw, executor="local") as system:
            system.train()
            answers.append(system.predict(rows)["predictions"])
    assert answers[0] == answers[1]


def test_scales_that_are_left_out_suit_the_rows_and_declared_ones_that_clip_are_told_of(tmp_path, caplog):
    table = write(tmp_path / "a.parquet")
    raw = config(tmp_path / "a", table, task={"name": "ridge"})
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        assert system.settings.task.options["target_scale"] == 2.0**-11
    raw = config(tmp_path / "b", table, task={"name": "ridge", "target_scale": 2.0**-10})
    with hybridmu.connect(raw, executor="local") as system:
        warnings = system.train()["warnings"]
        assert any("target_scale" in line and "0.000488" in line for line in warnings)


def test_lda_learns_no_numbers(tmp_path):
    with pytest.raises(ConfigError, match="lda learns classes"):
        hybridmu.connect(config(tmp_path / "a", write(tmp_path / "a.parquet"), task={"name": "lda"}), executor="local")
