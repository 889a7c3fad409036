"""forget(train(D), F) == train(D without F), bit for bit, of numbers too; the oracle is tests/reference.py."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
from tests.system.test_exactness import OPTIMIZERS, SGD, assert_equal_to_reference, config_for, write_table

LOSSES = [{}, {"loss": "huber", "delta": 0.7}, {"loss": "quantile", "quantile": 0.8}]
TARGETS = {
    "float64": lambda random, rows: pa.array(2e5 + 1e5 * random.normal(size=rows)),
    "float32": lambda random, rows: pa.array(random.normal(size=rows).astype(np.float32)),
    "int64": lambda random, rows: pa.array(random.integers(-5, 2**40, rows)),
    "equal": lambda _, rows: pa.array([7.25] * rows),
}


def write_targets(path: Path, rows: int, kind: str, *, groups: int = 0, start: int = 0, seed: int = 0) -> list:
    ids = write_table(path, rows, string_ids=False, groups=groups, start=start, seed=seed)
    table = pq.read_table(path).drop_columns(["label"])
    pq.write_table(table.append_column("price", TARGETS[kind](np.random.default_rng(seed + 1), rows)), path)
    return ids


def config_of(folder: Path, table: Path, task: dict, **shape) -> dict:
    config = config_for(folder, table, groups=shape.pop("groups", 0), **shape)
    del config["data"]["label"], config["data"]["classes"]
    config["data"]["target"] = "price"
    config["task"] |= task
    return config


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(data=st.data())
def test_any_sequence_of_requests_equals_training_without_the_rows(data):
    rows = data.draw(st.integers(2, 40), label="rows")
    groups = data.draw(st.sampled_from([0, 5]), label="groups")
    shape = {
        "shards": data.draw(st.integers(1, 3), label="shards"),
        "slices": data.draw(st.integers(1, 3), label="slices"),
        "epochs": data.draw(st.integers(1, 3), label="epochs"),
        "batch": data.draw(st.sampled_from([1, 3, 8]), label="batch size"),
        "optimizer": data.draw(st.sampled_from([{**one, "lr": one["lr"] / 100} for one in OPTIMIZERS])),
    }
    folder = Path(tempfile.mkdtemp())
    try:
        table = folder / "train.parquet"
        kind = data.draw(st.sampled_from(sorted(TARGETS)), label="targets")
        ids = write_targets(table, rows, kind, groups=groups)
        config = config_of(folder, table, data.draw(st.sampled_from(LOSSES)), groups=groups, **shape)
        gone = set()
        with hybridmu.connect(config, executor="local") as system:
            system.train()
            assert_equal_to_reference(system, config, table)
            for _ in range(data.draw(st.integers(1, 2), label="requests")):
                asked = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=max(1, rows // 3)))
                if gone | set(asked) == set(ids):
                    continue
                gone |= set(asked)
                report = system.forget(ids=asked, strategy="retrain", wait=True)
                assert report["state"] == "SERVED"
                assert_equal_to_reference(system, config, table, gone)
    finally:
        shutil.rmtree(folder)


def test_targets_of_every_type_are_learned_alike_over_restarts_and_ingestions(tmp_path):
    for kind in ("float64", "int64"):
        folder = tmp_path / kind
        folder.mkdir()
        table, more = folder / "train.parquet", folder / "more.parquet"
        ids = write_targets(table, 60, kind, groups=6)
        config = config_of(folder, table, {}, shards=2, slices=2, epochs=3, batch=4, optimizer=SGD, groups=6)
        config["optimizer"] = {**SGD, "lr": 0.05}
        with hybridmu.connect(config, executor="local") as system:
            system.train()
            assert_equal_to_reference(system, config, table)
            system.forget(ids=ids[:5], strategy="retrain", wait=True)
        later = write_targets(more, 20, kind, groups=6, start=1000, seed=9)
        with hybridmu.connect(config, executor="local") as system:  # a restart
            assert_equal_to_reference(system, config, table, ids[:5])
            system.ingest(more, slices=1, epochs=2, wait=True)
            history = [(more, 1, 2)]
            assert_equal_to_reference(system, config, table, ids[:5], (), history)
            system.forget(ids=later[:3], groups=["u1"], strategy="retrain", wait=True)
            assert_equal_to_reference(system, config, table, {*ids[:5], *later[:3]}, {"u1"}, history)


def test_the_scale_is_fitted_anew_when_slice_one_is_touched_and_never_by_an_update(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_targets(table, 60, "float64")
    config = config_of(tmp_path, table, {}, shards=1, slices=2, epochs=3, batch=4, optimizer={**SGD, "lr": 0.05})
    with hybridmu.connect(config, executor="local") as system:
        system.train()

        def scale():
            state = system.site.blobs.get(system.registry.version().shards[0].blob)
            return [float(state[f"0.1.{name}"]) for name in ("mean", "deviation")]

        trained = scale()
        first = system.site.lake.rows("train", 0, frozenset())
        expected = first.y[: first.upto(1)].double()
        assert trained == [float(expected.mean().float()), float(expected.std(correction=0).float())]
        system.forget(ids=ids[:10], wait=True, strategy="retrain")
        assert scale() != trained
        assert system.verify()["bitwise_equal"] is True
