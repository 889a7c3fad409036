"""A life of a system whose features are made of texts: they are columns like others, and go with their rows."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import Settings
from hybridmu.core.features.ngrams import NGrams
from hybridmu.errors import ConfigError, DataError, StateError
from hybridmu.plugins import ImageEncoder
from hybridmu.serving.replica import Replica
from hybridmu.store.dataset.layout import as_given

WORDS = ["soft", "warm", "blue", "dress", "shirt", "zip", "torn", "love", "never", "again"]
WIDTH = 8


class Bright(ImageEncoder):
    """The mean of each colour."""

    width = 3

    def encode(self, pictures):
        return np.array([picture.mean(axis=(0, 1)) // 2 for picture in pictures]).astype(np.int8)


def notes(rows: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [f"{' '.join(draw.choice(WORDS, 6))} number{row:05d}" for row in range(rows)]


def write(path: Path, texts: list[str], start: int = 0) -> Path:
    draw = np.random.default_rng(start)
    table = {
        "id": range(start, start + len(texts)),
        "size": draw.normal(size=len(texts)).astype(np.float32),
        "note": texts,
        "label": ["yes" if "love" in text or "warm" in text else "no" for text in texts],
    }
    pq.write_table(pa.table(table), path)
    return path


def write_features(path: Path, source: Path) -> Path:
    """Write the same rows with features in place of texts, as somebody would who encodes them beforehand."""
    table = pq.read_table(source)
    made = NGrams(width=WIDTH).encode(table["note"].to_pylist())
    lists = pa.FixedSizeListArray.from_arrays(pa.array(made.reshape(-1)), WIDTH)
    pq.write_table(table.drop_columns(["note"]).append_column("note:ngrams", lists), path)
    return path


def config(folder: Path, table: Path, task: str, *, plain: bool = False, **overrides) -> dict:
    data = {"train": str(table), "test_fraction": 0, "classes": ["no", "yes"], "scale": {"size": 0.125}}
    if plain:
        data["scale"]["note:ngrams"] = 1 / 127
    raw = {
        "data": data,
        "task": {"name": task},
        "sisa": {"shards": 2, "slices": 2, "epochs": 2, "batch_size": 16, "seed": 5},
        "policy": {"calibrate": False, "retention_seconds": 1e9},
        "storage_url": str(folder / "storage"),
    }
    if task == "mlp":
        raw["task"]["hidden"] = [4]
        raw["optimizer"] = {"name": "sgd", "lr": 0.3}
    if not plain:
        raw["features"] = {"text": {"note": {"name": "ngrams", "width": WIDTH}}}
    return raw | overrides


def trained(folder: Path, raw: dict) -> hybridmu.System:
    folder.mkdir(exist_ok=True)
    raw = raw | {"storage_url": str(folder / "storage")}
    system = hybridmu.connect(raw, executor="local")
    system.train()
    return system


def states(system: hybridmu.System) -> list[dict[str, bytes]]:
    blobs = [sub.blob for sub in system.registry.version().shards]
    return [{name: value.numpy().tobytes() for name, value in system.site.blobs.get(blob).items()} for blob in blobs]


@pytest.mark.parametrize("task", ["lda", "mlp"])
def test_features_of_texts_train_the_same_bits_as_a_table_of_features(tmp_path, task):
    source = write(tmp_path / "a.parquet", notes(80))
    plain = write_features(tmp_path / "b.parquet", source)
    with (
        trained(tmp_path / "a", config(tmp_path, source, task)) as ours,
        trained(tmp_path / "b", config(tmp_path, plain, task, plain=True)) as theirs,
    ):
        assert states(ours) == states(theirs)
        for system in (ours, theirs):
            system.forget(ids=[3, 17], wait=True)
        assert states(ours) == states(theirs)


def test_deletion_ingestion_and_correction_equal_training_on_what_is_left(tmp_path):
    texts = notes(80)
    source = write(tmp_path / "a.parquet", texts)
    purging = {"calibrate": False, "retention_seconds": 0}  # a corrected row comes back once the old one is purged
    with trained(tmp_path / "a", config(tmp_path, source, "lda", policy=purging)) as system:
        system.forget(ids=[5], strategy="subtract", wait=True)
        more = notes(10, seed=1)
        write(tmp_path / "new.parquet", more, start=100)
        system.ingest(str(tmp_path / "new.parquet"), wait=True)
        write(tmp_path / "again.parquet", ["never again torn"], start=9)
        system.correct(str(tmp_path / "again.parquet"), wait=True)
        left = pa.concat_tables([
            pq.read_table(source).filter(pa.array([row not in {5, 9} for row in range(80)])),
            pq.read_table(tmp_path / "new.parquet"),
            pq.read_table(tmp_path / "again.parquet"),
        ])
        pq.write_table(left, tmp_path / "left.parquet")
        with trained(tmp_path / "b", config(tmp_path, tmp_path / "left.parquet", "lda")) as other:
            assert states(system) == states(other)
        assert system.verify()["bitwise_equal"]


def test_a_purge_leaves_neither_the_text_nor_its_features(tmp_path):
    texts = notes(80)
    source = write(tmp_path / "a.parquet", texts)
    raw = config(tmp_path, source, "lda", policy={"calibrate": False, "retention_seconds": 0})
    with trained(tmp_path / "a", raw) as system:
        features = NGrams(width=WIDTH).encode([texts[33]])[0].tobytes()
        files = [path for path in (tmp_path / "a").rglob("*.parquet") if path.is_file()]
        assert any(texts[33] in str(pq.read_table(path).to_pydict().get("note")) for path in files)
        system.forget(ids=[33], wait=True)
        system.run(until_idle=True)
        assert [request["state"] for request in system.requests()] == ["PURGED"]
    for path in (tmp_path / "a").rglob("*"):
        if path.suffix == ".parquet":
            found = pq.read_table(path).to_pydict()
            assert "number00033" not in str(found)
            assert features not in found.get("note:ngrams", [])
        elif path.is_file():
            assert b"number00033" not in path.read_bytes()


def test_rows_tables_and_frames_have_the_same_answers(tmp_path):
    source = write(tmp_path / "a.parquet", notes(80))
    pandas = pytest.importorskip("pandas")
    asked = pq.read_table(source).slice(0, 7)
    with trained(tmp_path / "a", config(tmp_path, source, "lda")) as system:
        by_rows = [answer["label"] for answer in system.predict(asked.to_pylist())["predictions"]]
        assert system.predict(asked)["label"].to_pylist() == by_rows
        assert system.predict(asked.to_pandas())["label"].tolist() == by_rows
        assert isinstance(asked.to_pandas(), pandas.DataFrame)
        assert [column.name for column in system.feature_columns()] == ["size", "note"]
        with pytest.raises(DataError, match="note") as caught:
            system.predict([{"size": 1.0}])
        assert caught.value.expected == "size, note"
        with pytest.raises(DataError, match=r"row 2.*note"):
            system.predict(pa.table({"size": [1.0, 2.0], "note": ["soft", None]}))


def test_a_successor_takes_the_features_along(tmp_path):
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda")
    with trained(tmp_path / "a", raw) as system:
        keys = str(tmp_path / "a" / "storage-keys")
        later = raw | {"storage_url": str(tmp_path / "c"), "keys": {"folder": keys}}
        later["sisa"] = raw["sisa"] | {"shards": 3}
        with pytest.raises(StateError, match=r"features\.text"):
            system.reshard(Settings.parse(later | {"features": {"text": {"label": "ngrams"}}}))
        system.reshard(Settings.parse(later))
        with hybridmu.connect(later, executor="local") as successor:
            first = as_given(next(iter(successor.site.lake.tables(successor.site.lake.files("train", 0)))))
            assert "note:ngrams" in first.column_names
            asked = pq.read_table(source).slice(0, 5).to_pylist()
            assert successor.predict(asked)["predictions"] == system.predict(asked)["predictions"]


OWN = """
import numpy as np
from hybridmu.plugins import TextEncoder

class Own(TextEncoder):
    width = 2

    def encode(self, texts):
        return np.array([[len(text) % FACTOR, text.count("o")] for text in texts], np.int8)
"""


def test_an_encoder_that_was_edited_makes_no_features_but_deletions_go_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_encoder_of_test.py").write_text(OWN.replace("FACTOR", "100"))
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda", features={"text": {"note": "own_encoder_of_test:Own"}})
    row = pq.read_table(source).slice(0, 1).to_pylist()
    with trained(tmp_path / "a", raw) as system:
        assert system.predict(row)["predictions"]
    (tmp_path / "own_encoder_of_test.py").write_text(OWN.replace("FACTOR", "99"))
    sys.modules.pop("own_encoder_of_test")
    raw["storage_url"] = str(tmp_path / "a" / "storage")
    write(tmp_path / "new.parquet", notes(3), start=100)
    with hybridmu.connect(raw, executor="local") as system:
        for door in (lambda: system.predict(row), lambda: system.ingest(str(tmp_path / "new.parquet"))):
            with pytest.raises(StateError, match="note:Own"):
                door()
        plan = system.upgrade()
        assert (plan.encoders, plan.lost) == (("note:Own",), 0)
        assert "note:Own" in plan.explain()
        assert system.forget(ids=[3], wait=True)["state"] in {"APPLIED", "SERVED"}
        assert system.verify()["bitwise_equal"]


@pytest.mark.parametrize(
    ("features", "error"),
    [
        ({"text": {"none": "ngrams"}}, DataError),
        ({"text": {"size": "ngrams"}}, DataError),
        ({"text": {"note": "nothing"}}, ConfigError),
        ({"text": {"id": "ngrams"}}, (ConfigError, DataError)),
        ({"text": {"label": "ngrams"}}, ConfigError),
    ],
)
def test_what_can_t_be_encoded_is_refused_before_anything_is_stored(tmp_path, features, error):
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda", features=features)
    with hybridmu.connect(raw, executor="local") as system, pytest.raises(error):
        system.train()
    assert not list((tmp_path / "storage").rglob("*.parquet"))


@pytest.mark.parametrize(
    "declared", [{"scale": {"note:ngrams": 2.0}}, {"fills": {"note:ngrams": 0}}, {"lists": {"note:ngrams": 9}}]
)
def test_nothing_is_declared_of_what_an_encoder_makes(tmp_path, declared):
    raw = config(tmp_path, write(tmp_path / "a.parquet", notes(80)), "lda")
    raw["data"] |= declared
    with hybridmu.connect(raw, executor="local") as system, pytest.raises(DataError, match="note:ngrams"):
        system.train()


def test_pictures_of_another_layout_come_in_and_go_along_to_a_successor(tmp_path):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (40, 16), dtype=np.uint8).tolist()
    table = {"id": range(40), "note": pa.array(pixels, pa.list_(pa.uint8())), "label": ["yes", "no"] * 20}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    later = {"id": [90], "note": pa.array([[9] * 64], pa.list_(pa.uint8(), 64)), "label": ["yes"]}
    pq.write_table(pa.table(later), tmp_path / "later.parquet")
    raw = config(tmp_path, tmp_path / "a.parquet", "lda", features={"image": {"note": f"{__name__}:Bright"}})
    del raw["data"]["scale"]
    with trained(tmp_path / "a", raw) as system:
        system.ingest(str(tmp_path / "later.parquet"), wait=True)
        asked = [{"note": [9] * 64}, {"note": pixels[0]}]
        answers = system.predict(asked)["predictions"]
        keys = {"folder": str(tmp_path / "a" / "storage-keys")}
        successor = raw | {"storage_url": str(tmp_path / "c"), "keys": keys}
        system.reshard(Settings.parse(successor))
        with hybridmu.connect(successor, executor="local") as other:
            assert other.predict(asked)["predictions"] == answers


def test_a_replica_without_its_encoder_confirms_versions_and_refuses_questions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "gone_encoder_of_test.py").write_text(OWN.replace("FACTOR", "100"))
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda", features={"text": {"note": "gone_encoder_of_test:Own"}})
    with trained(tmp_path / "a", raw) as system:
        configuration = system.settings
    (tmp_path / "gone_encoder_of_test.py").unlink()
    sys.modules.pop("gone_encoder_of_test")
    replica = Replica(configuration, "r1")
    with hybridmu.connect(configuration, executor="local") as system:
        system.forget(ids=[3], strategy="subtract", wait=False)
        system.run(until_idle=True)
        assert replica.refresh() == 2
        row = pq.read_table(source).slice(0, 1).to_pylist()
        with pytest.raises(StateError, match="gone_encoder_of_test"):
            system.predict(row)
        with pytest.raises(StateError, match="gone_encoder_of_test"):
            replica.ensemble.answers([row])


def test_the_manifest_names_encoders_by_their_digests(tmp_path):
    source = write(tmp_path / "a.parquet", notes(80))
    with trained(tmp_path / "a", config(tmp_path, source, "lda")) as system:
        manifest = json.loads((tmp_path / "a/storage/lake/manifest.json").read_bytes().split(b"\n")[0])
        assert manifest["encoders"] == {"note:ngrams": NGrams(width=WIDTH).digest}
        assert system.site.lineage_static()["encoders"] == manifest["encoders"]


def test_who_waits_is_told_of_the_rows_that_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hybridmu.core.features.text_values.PART", 30)
    source = write(tmp_path / "a.parquet", notes(80))
    seen = []
    with hybridmu.connect(config(tmp_path, source, "lda"), executor="local") as system:
        system.train(lambda snapshot: seen.append((snapshot.version, snapshot.rows_read)))
        assert [rows for version, rows in seen if version is None and rows] == [30, 60, 80]
        [training] = [split for split in system.site.lake.manifest.rows.items() if split[0] == "train"]
        assert sum(map(sum, training[1])) == 80
    with hybridmu.connect(config(tmp_path, source, "lda"), executor="local") as system:
        system.train(lambda snapshot: seen.append((snapshot.version, -1)))
        assert (None, -1) not in seen
