"""A life of a system whose sub-models are adapters of one frozen transformer."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import hybridmu
from hybridmu import faults
from hybridmu.core.features.text_tokens import Tokens
from hybridmu.errors import ConfigError, DataError, StateError
from hybridmu.serving.ensemble import Ensemble
from tests.scenes.purged_system import World
from tests.scenes.tiny_transformer import LENGTH, texts_of, write_table, write_transformer

ROWS = 64
METHODS = [{"method": "ia3"}, {"method": "lora", "rank": 2}, {"method": "head"}]


class Crash(KeyboardInterrupt):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("models") / "bert")


def config_of(folder: Path, table: Path, backbone: Path, *, shards: int = 2, **overrides) -> dict:
    task = {"name": "adapter", "backbone": str(backbone), "length": LENGTH, **overrides.pop("options", {})}
    return {
        "data": {"train": str(table), "test_fraction": 0, "classes": ["no", "yes"], "scale": {"size": 0.125}},
        "features": {"text": {"note": {"name": "tokens", "folder": str(backbone), "length": LENGTH}}},
        "task": task,
        "sisa": {"shards": shards, "slices": 2, "epochs": 2, "batch_size": 8, "seed": 5},
        "optimizer": {"name": "adamw", "lr": 0.02},
        "policy": {"calibrate": False, "retention_seconds": 1e9},
        "storage_url": str(folder / "storage"),
        **overrides,
    }


def trained(folder: Path, raw: dict) -> hybridmu.System:
    folder.mkdir(exist_ok=True)
    system = hybridmu.connect(raw | {"storage_url": str(folder / "storage")}, executor="local")
    system.train()
    return system


def states(system: hybridmu.System) -> list[dict[str, bytes]]:
    blobs = [sub.blob for sub in system.registry.version().shards]
    return [{name: value.numpy().tobytes() for name, value in system.site.blobs.get(blob).items()} for blob in blobs]


def without(path: Path, source: Path, gone: set[int], *more: Path) -> Path:
    """Write a table without some rows of a source, and with all of others."""
    table = pq.read_table(source)
    kept = table.filter(pa.array([row not in gone for row in table["id"].to_pylist()]))
    pq.write_table(pa.concat_tables([kept, *map(pq.read_table, more)]), path)
    return path


@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_deletions_equal_training_without_the_rows(tmp_path, backbone, options):
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    raw = config_of(tmp_path, source, backbone, options=options)
    with trained(tmp_path / "a", raw) as system:
        before = states(system)
        for gone in ([5], [17, 33]):
            report = system.forget(ids=gone, strategy="retrain", wait=True)
            assert report["state"] == "SERVED"
        assert system.verify()["bitwise_equal"] is True  # in fresh processes
        assert states(system) != before
        left = without(tmp_path / "left.parquet", source, {5, 17, 33})
        with trained(tmp_path / "b", config_of(tmp_path, left, backbone, options=options)) as other:
            assert states(system) == states(other)


def test_new_rows_are_learned_and_a_purge_leaves_neither_text_nor_tokens(tmp_path, backbone):
    texts = texts_of(ROWS)
    source = write_table(tmp_path / "train.parquet", texts)
    raw = config_of(tmp_path, source, backbone, policy={"calibrate": False, "retention_seconds": 0})
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        later = write_table(tmp_path / "new.parquet", texts_of(12, seed=3), start=100)
        assert system.ingest(str(later), wait=True)["state"] == "SERVED"
        world = World(system, raw, source)
        request = world.forget([33], strategy="retrain")
        world.run()
        world.assert_swept()
        [certificate] = world.assert_certified(request)
        assert [stage["strategy"] for shard in certificate["shards"] for stage in shard["stages"]] == ["retrain"]
        assert system.verify()["bitwise_equal"] is True
    tokens = Tokens(str(backbone), LENGTH).encode([texts[33]])[0].tolist()
    for path in (tmp_path / "storage").rglob("*"):
        if path.suffix == ".parquet":
            found = pq.read_table(path).to_pydict()
            assert tokens not in found.get("note:tokens", [])
            assert texts[33] not in str(found)
        elif path.is_file():
            assert texts[33].encode() not in path.read_bytes()


def test_every_kind_of_text_is_asked_about(tmp_path, backbone):
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    with trained(tmp_path / "a", config_of(tmp_path, source, backbone)) as system:
        texts = ["soft warm", "", "🧥👗", "love " * 25_000, "x" * 100_000]
        rows = [{"size": 0.0, "note": text} for text in texts]
        together = system.predict(rows)["predictions"]
        for row, found in zip(rows, together, strict=True):
            (alone,) = system.predict([row])["predictions"]
            assert alone["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
        cut = " ".join("love" for _ in range(LENGTH))
        (found,) = system.predict([{"size": 0.0, "note": cut}])["predictions"]
        assert found["probabilities"] == pytest.approx(together[3]["probabilities"], abs=1e-5)
        for wrong in ({"size": 0.0, "note": None}, {"size": 0.0}, {"size": 0.0, "note": 3}):
            with pytest.raises(DataError, match="note"):
                system.predict([wrong])
        assert [column.name for column in system.feature_columns()] == ["size", "note"]


def test_a_null_is_refused_unless_a_text_stands_for_it(tmp_path, backbone):
    texts: list[str | None] = [*texts_of(ROWS)]
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    table = pq.read_table(source)
    texts[9] = None
    pq.write_table(table.set_column(table.column_names.index("note"), "note", pa.array(texts)), source)
    raw = config_of(tmp_path, source, backbone)
    with hybridmu.connect(raw, executor="local") as system, pytest.raises(DataError, match=r"row 10 .*null"):
        system.train()
    raw["data"] = raw["data"] | {"fills": {"note": ""}}
    with trained(tmp_path / "b", raw) as system:
        assert system.predict([{"size": 0.0, "note": None}])["predictions"]


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_of_one_row_and_of_none(tmp_path, backbone, shards):
    source = write_table(tmp_path / "a.parquet", ["soft warm", "blue zip", "never love"])
    raw = config_of(tmp_path, source, backbone, shards=shards)
    raw["sisa"] = raw["sisa"] | {"min_rows": 0}
    with trained(tmp_path / "a", raw) as system:
        system.forget(ids=[1], strategy="retrain", wait=True)
        assert system.verify()["bitwise_equal"] is True


def test_a_run_that_is_killed_between_slices_ends_in_the_same_bits(tmp_path, backbone):
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    raw = config_of(tmp_path, source, backbone, options={"dropout": 0.1})
    with trained(tmp_path / "a", raw) as whole:
        expected = states(whole)
    killed = raw | {"storage_url": str(tmp_path / "b")}

    def crash() -> None:
        raise Crash

    with hybridmu.connect(killed, executor="local") as system:
        faults.arm("blob.stored", 2, crash)
        try:
            with pytest.raises(Crash):
                system.train()
        finally:
            faults.observe(None)
    with hybridmu.connect(killed, executor="local") as system:
        system.train()
        assert states(system) == expected


def flipped(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)


def test_a_backbone_that_changed_trains_serves_and_answers_nothing(tmp_path, backbone):
    own = shutil.copytree(backbone, tmp_path / "model")
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    raw = config_of(tmp_path / "a", source, own)
    with trained(tmp_path / "a", raw) as system:
        before = system.predict([{"size": 0.0, "note": "soft"}])
        heads = {sub.head for sub in system.registry.version().shards}
    flipped(own)
    with hybridmu.connect(raw, executor="local") as system:
        for door in (
            lambda: system.predict([{"size": 0.0, "note": "soft"}]),
            lambda: system.forget(ids=[3], strategy="retrain", wait=True),
            lambda: system.site.fresh_model(0),
        ):
            with pytest.raises(StateError, match="note:tokens"):
                door()
        assert {system.site.head(shard) for shard in (0, 1)} != heads
    flipped(own)  # back
    with hybridmu.connect(raw, executor="local") as system:
        system.run(until_idle=True)
        assert {request["state"] for request in system.requests()} == {"SERVED"}
        assert system.verify()["bitwise_equal"] is True
        assert system.predict([{"size": 0.0, "note": "soft"}])["version"] > before["version"]
    shutil.rmtree(own)
    with (
        hybridmu.connect(raw, executor="local") as system,
        pytest.raises((ConfigError, StateError), match="is not there"),
    ):
        system.site.fresh_model(0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shutil.rmtree, "is not there"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), "no weights as safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer"),
    ],
)
def test_what_is_no_backbone_is_refused_before_anything_is_stored(tmp_path, backbone, change, says):
    own = shutil.copytree(backbone, tmp_path / "model")
    change(own)
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    with (
        hybridmu.connect(config_of(tmp_path, source, own), executor="local") as system,
        pytest.raises(ConfigError, match=says),
    ):
        system.train()
    assert not list((tmp_path / "storage").rglob("*.parquet"))


@pytest.mark.parametrize("strategy", ["dpus", "dpus-optimised", "dpus-newton", "rewind"])
def test_updates_change_adapters_and_are_repaired_exactly(tmp_path, backbone, strategy):
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    raw = config_of(tmp_path, source, backbone)
    if strategy == "dpus-newton":  # of whatever model, it is for this optimizer alone
        raw["optimizer"] = {"name": "sgd", "lr": 0.1}
    with trained(tmp_path / "a", raw) as system:
        before = states(system)
        report = system.forget(ids=[5, 6], strategy=strategy, wait=True)
        assert {shard["strategy"] for shard in report["shards"]} >= {strategy}
        system.run(until_idle=True)  # the repair
        assert states(system) != before
        assert system.verify()["bitwise_equal"] is True


def copies_of(table: torch.Tensor) -> int:
    """Return how many tensors in memory hold a table's numbers, each storage once, the table itself left out."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.shape == table.shape]
    places = {tensor.data_ptr() for tensor in found if tensor.device.type == "cpu" and torch.equal(tensor, table)}
    return len(places - {table.data_ptr()})


def test_a_replica_holds_one_backbone_and_a_swap_loads_the_adapters_alone(tmp_path):
    own = write_transformer(tmp_path / "model", seed=77)
    (name, words) = next(each for each in load_file(own / "model.safetensors").items() if "word_emb" in each[0])
    assert copies_of(words) == 0, name
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    with trained(tmp_path / "a", config_of(tmp_path, source, own, shards=4)) as system:
        served = Ensemble.load(system.site, system.registry.version())
        assert len(served.models) == 4
        assert copies_of(words) == 1
        parameters = sum(t.numel() for _, model in served.models.values() for t in model.state_dict().values())
        assert parameters == 4 * (2 * (2 * 32 + 48) + 2 * (32 + 1 + 1))
        before = {sub.shard: sub.blob for sub in system.registry.version().shards}
        system.forget(ids=[5], strategy="retrain", wait=True)
        after = {sub.shard: sub.blob for sub in system.registry.version().shards}
        (changed,) = (shard for shard in before if before[shard] != after[shard])
        swapped = Ensemble.load(system.site, system.registry.version(), served)
        assert all(swapped.models[shard][1] is served.models[shard][1] for shard in before if shard != changed)
        loaded = system.site.blobs.sizes(changed)[after[changed]]
        assert loaded * 10 < (own / "model.safetensors").stat().st_size
        assert copies_of(words) == 1
        x = swapped.encode([{"size": 0.0, "note": "soft warm"}, {"size": 0.0, "note": ""}])
        mean = torch.softmax(swapped.logits(x), dim=-1).mean(dim=0)
        assert torch.allclose(torch.from_numpy(swapped.probabilities(x)), mean)


def test_with_no_option_set_it_trains(tmp_path, backbone):
    source = write_table(tmp_path / "a.parquet", texts_of(ROWS))
    raw = config_of(tmp_path, source, backbone)
    del raw["sisa"], raw["optimizer"]
    with trained(tmp_path / "a", raw) as system:
        assert system.settings.data.standardize is False
        assert (system.settings.optimizer.lr, system.settings.sisa.batch_size) == (0.003, 16)
