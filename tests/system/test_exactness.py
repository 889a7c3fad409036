"""forget(train(D), F) == train(D without F), bit for bit, for sequences of requests: the product's first promise.

The oracle is tests/reference.py, which reads the source table and shares no code with the package.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
import hybridmu.task
from tests import reference

FEATURES = ["a", "b", "c"]


def write_table(path: Path, rows: int, *, string_ids: bool, groups: int, seed: int = 0, start: int = 0) -> list:
    random = np.random.default_rng(seed)
    ids = [f"row-{i}" if string_ids else i * 7 + 3 for i in range(start, start + rows)]
    columns = {
        "id": ids,
        **{name: random.normal(size=rows).astype(np.float32) for name in FEATURES},
        "label": [["no", "yes"][int(v)] for v in random.integers(0, 2, rows)],
    }
    if groups:
        owners = random.integers(0, groups, rows)
        columns["user"] = pa.array([None if i % 11 == 0 else f"u{owners[i]}" for i in range(rows)])
    pq.write_table(pa.table(columns), path)
    return ids


def config_for(folder: Path, table: Path, *, shards, slices, epochs, batch, optimizer, groups) -> dict:
    return {
        "data": {
            "train": str(table),
            "test_fraction": 0,
            "id": "id",
            "group": "user" if groups else None,
            "label": "label",
            "features": FEATURES,
            "classes": ["no", "yes"],
        },
        "task": {"name": "mlp", "hidden": [4]},
        "sisa": {"shards": shards, "slices": slices, "epochs": epochs, "batch_size": batch, "seed": 5, "min_rows": 0},
        "optimizer": optimizer,
        "policy": {"calibrate": False},
        "storage_url": str(folder / "storage"),
    }


def by_shape(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    """Return by what tensors without names are put in order."""
    return tuple(tensor.shape), tensor.numpy().tobytes()


def assert_equal_to_reference(system, config, table, ids=(), groups=(), later=()):
    version = system.registry.version()
    assert [sub.shard for sub in version.shards] == list(range(config["sisa"]["shards"]))
    for sub in version.shards:
        expected = reference.train(table, config, sub.shard, ids, groups, later)
        if expected is None:
            assert sub.blob is None, "an emptied shard must leave the vote"
            continue
        assert sub.exact
        found = list(system.site.blobs.get(sub.blob).values())
        for ours, theirs in zip(sorted(found, key=by_shape), sorted(expected, key=by_shape), strict=True):
            assert ours.shape == theirs.shape
            assert ours.numpy().tobytes() == theirs.numpy().tobytes(), f"shard {sub.shard} differs"


SGD = {"name": "sgd", "lr": 0.3, "momentum": 0.0}
OPTIMIZERS = [
    SGD,
    {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 0.01},
    {"name": "sgd", "lr": 0.2, "schedule": "constant"},
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(data=st.data())
@pytest.mark.slow
def test_any_sequence_of_requests_equals_training_without_the_rows(data):
    rows = data.draw(st.integers(2, 60), label="rows")
    groups = data.draw(st.sampled_from([0, 3, 12]), label="groups")
    string_ids = data.draw(st.booleans(), label="string ids")
    shape = {
        "shards": data.draw(st.integers(1, 4), label="shards"),
        "slices": data.draw(st.integers(1, 4), label="slices"),
        "epochs": data.draw(st.integers(1, 4), label="epochs"),
        "batch": data.draw(st.sampled_from([1, 2, 3, 8]), label="batch size"),
    }
    optimizer = data.draw(st.sampled_from(OPTIMIZERS), label="optimizer")
    folder = Path(tempfile.mkdtemp())
    try:
        table = folder / "train.parquet"
        ids = write_table(table, rows, string_ids=string_ids, groups=groups)
        config = config_for(folder, table, optimizer=optimizer, groups=groups, **shape)
        owners = pq.read_table(table)["user"].to_pylist() if groups else [None] * rows
        gone_ids, gone_groups = set(), set()
        with hybridmu.connect(config, executor="local") as system:
            system.train()
            assert_equal_to_reference(system, config, table)
            for _ in range(data.draw(st.integers(1, 3), label="requests")):
                named = sorted({owner for owner in owners if owner})
                asked_groups = data.draw(st.lists(st.sampled_from(named), max_size=2) if named else st.just([]))
                # Overlaps with earlier requests are wanted, so ids are drawn from all rows.
                asked_ids = data.draw(
                    st.lists(st.sampled_from(ids), min_size=not asked_groups, max_size=max(1, rows // 3))
                )
                after_ids, after_groups = gone_ids | set(asked_ids), gone_groups | set(asked_groups)
                left = [i for i, o in zip(ids, owners, strict=True) if i not in after_ids and o not in after_groups]
                if not left:
                    with pytest.raises(hybridmu.HybridMUError, match="no row to train on"):
                        system.forget(ids=asked_ids, groups=asked_groups)
                    continue
                gone_ids, gone_groups = after_ids, after_groups
                report = system.forget(ids=asked_ids, groups=asked_groups, strategy="retrain", wait=True)
                assert report["state"] == "SERVED"
                assert_equal_to_reference(system, config, table, gone_ids, gone_groups)
    finally:
        shutil.rmtree(folder)


def test_verify_agrees_in_a_fresh_process_and_sees_a_changed_bit(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 50, string_ids=False, groups=6)
    config = config_for(tmp_path, table, shards=2, slices=3, epochs=3, batch=4, optimizer=SGD, groups=6)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=ids[:3], wait=True, strategy="retrain")
        system.forget(groups=["u1"], wait=True, strategy="retrain")
        assert system.verify()["bitwise_equal"] is True
        sub = system.registry.version().shards[0]
        state = system.site.blobs.get(sub.blob)
        name = sorted(state)[0]
        state[name].view(torch.int32).view(-1)[0] ^= 1
        other = system.site.blobs.put(state, sub.shard)
        with system.registry._write.begin() as connection:
            connection.exec_driver_sql("update version_shards set blob = ? where shard = 0", (other,))
        report = system.verify()
        assert report["bitwise_equal"] is False
        assert report["exact_claims_hold"] is False
        assert report["shards"][0]["differing"] == [name]


def test_standardized_features_are_refitted_when_slice_one_is_touched(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 40, string_ids=True, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=3, batch=4, optimizer=SGD, groups=0)
    config["data"]["standardize"] = True
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        before = [system.site.blobs.get(sub.blob)["0.mean"] for sub in system.registry.version().shards]
        system.forget(ids=ids[:10], wait=True, strategy="retrain")
        after = [system.site.blobs.get(sub.blob)["0.mean"] for sub in system.registry.version().shards]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert system.verify()["bitwise_equal"] is True


class Noisy(hybridmu.task.Mlp):
    """A task that draws random numbers while training, and has buffers."""

    def model(self, features, classes):
        return torch.nn.Sequential(
            torch.nn.Linear(features, 6),
            torch.nn.BatchNorm1d(6),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(6, classes),
        )


@pytest.mark.slow
def test_dropout_and_batch_statistics_are_reproduced_and_every_buffer_is_compared(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 41, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=3, epochs=4, batch=4, optimizer=SGD, groups=0)
    config["task"] = {"name": "tests.system.test_exactness:Noisy"}
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=ids[5:9], wait=True, strategy="retrain")
        report = system.verify()
        assert report["bitwise_equal"] is True
        state = system.site.blobs.get(system.registry.version().shards[0].blob)
        assert any(name.endswith("running_mean") for name in state)
