from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridmu.core.kernel.partition import digest, digests, held_out, place
from hybridmu.errors import DataError, StateError
from tests.support import lake_rows, open_lake, replaced, table, write

GROUPED = {"data": {"group": "person"}}


def with_data(folder, **data):
    return {"data": {"train": str(folder / "train.parquet"), **data}}


@pytest.mark.parametrize(("rows", "shards", "slices"), [(101, 4, 3), (57, 1, 1), (10, 7, 5), (199, 3, 7), (3, 8, 4)])
@pytest.mark.parametrize("ids", ["int", "str"])
def test_every_row_lies_once_where_its_hash_says(tmp_path, rows, shards, slices, ids):
    made = table(rows, ids=ids)
    write(tmp_path, made)
    lake = open_lake(tmp_path, data={"classes": [0, 1, 2]}, sisa={"shards": shards, "slices": slices})
    found = lake_rows(lake)
    assert sorted(row["id"] for row in found) == sorted(made["id"].to_pylist())
    source = {row["id"]: row for row in made.to_pylist()}
    for row in found:
        raw = digest(lake.key, "id", row["id"])
        assert (row["shard"], row["_slice"], row["_id"]) == (
            int.from_bytes(raw[:8], "little") % shards, int.from_bytes(raw[8:], "little") % slices + 1, raw
        )  # fmt: skip
        assert {name: row[name] for name in made.column_names} == source[row["id"]]
    cells = Counter((row["shard"], row["_slice"]) for row in found)
    counts = lake.manifest.rows["train"]
    assert counts == tuple(tuple(cells[shard, i] for i in range(1, slices + 1)) for shard in range(shards))
    for shard in range(shards):
        loaded = lake.rows("train", shard, set())
        mine = sorted((row for row in found if row["shard"] == shard), key=lambda r: (r["_slice"], r["_id"]))
        assert [i.tobytes() for i in loaded.ids] == [row["_id"] for row in mine]
        assert loaded.counts(slices) == counts[shard]
        np.testing.assert_array_equal(loaded.x.numpy(), np.array(
            [[row[f"x{i}"] for i in range(4)] for row in mine], dtype=np.float32).reshape(-1, 4))  # fmt: skip
        assert loaded.y.tolist() == [row["label"] for row in mine]


def test_one_row_group_per_slice(tmp_path):
    write(tmp_path, table(90))
    lake = open_lake(tmp_path)
    for shard in range(4):
        file = pq.ParquetFile(lake.storage.path(*lake.files("train", shard)))
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert sizes == [n for n in lake.manifest.rows["train"][shard] if n]


def test_a_persons_rows_lie_in_one_slice_and_null_falls_back_to_the_id(tmp_path):
    made = table(300, groups=20, null_groups=30)
    write(tmp_path, made)
    lake = open_lake(tmp_path, **GROUPED)
    found = lake_rows(lake)
    assert len(found) == 300
    places: dict[str, set] = {}
    for row in found:
        kind, value = ("group", row["person"]) if row["person"] else ("id", row["id"])
        raw = digest(lake.key, kind, value)
        shard, slice_ = place(np.frombuffer(raw, np.uint8).reshape(1, 16), 4, 3)
        assert (row["shard"], row["_slice"]) == (shard[0], slice_[0])
        assert row["_group"] == (raw if row["person"] else bytes(16))
        places.setdefault(value if kind == "group" else "none", set()).add((row["shard"], row["_slice"]))
    assert len(places.pop("none")) > 3
    assert all(len(where) == 1 for where in places.values())


@pytest.mark.parametrize("batch", [50, 7])
@pytest.mark.parametrize("source", ["file", "folder", "uri", "folder-uri"])
@pytest.mark.sampled
def test_sources_and_row_groups_do_not_matter(tmp_path, source, batch):
    made = table(200, groups=9)
    write(tmp_path / "a", made)
    write(tmp_path / "b" / "in", made.slice(0, 120), "one.parquet", row_group_size=batch)
    write(tmp_path / "b" / "in", made.slice(120), "two.parquet", row_group_size=batch)
    write(tmp_path / "b", made, row_group_size=batch)
    where = tmp_path / "b" / ("in" if "folder" in source else "train.parquet")
    data = {"group": "person", "train": where.as_uri() if "uri" in source else str(where)}
    first, second = open_lake(tmp_path / "a", **GROUPED), open_lake(tmp_path / "b", data=data)
    assert lake_rows(first) == lake_rows(second)
    assert first.manifest == replace(second.manifest, salt=first.manifest.salt)
    assert len(first.manifest.salt) == len(second.manifest.salt) == 32
    assert first.manifest.salt != second.manifest.salt  # a secret of each lake


def test_storage_by_uri(tmp_path):
    write(tmp_path, table(60))
    lake = open_lake(tmp_path, storage_url=(tmp_path / "by uri").as_uri())
    assert (tmp_path / "by uri" / "lake" / "manifest.json").is_file()
    assert len(lake_rows(lake)) == 60


def test_a_second_ingestion_changes_nothing(tmp_path):
    write(tmp_path, table(60))
    lake = open_lake(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")}
    (tmp_path / "train.parquet").unlink()
    assert open_lake(tmp_path).manifest == lake.manifest
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")}


def test_reading_before_ingestion_is_an_error(tmp_path):
    with pytest.raises(StateError, match="hybridmu train"):
        _ = open_lake(tmp_path, read=False).manifest


# ---------------------------------------------------------------------- refusals


def doubled(made: pa.Table) -> pa.Table:
    """The first row comes again, far away and with another person."""
    again = made.slice(0, 1)
    if "person" in made.column_names:
        again = replaced(again, "person", pa.array(["somebody else"]))
    return pa.concat_tables([made, again])


def with_feature(values) -> object:
    return lambda made: replaced(made, "x1", values(len(made)))


TEST = "test.parquet"
BAD = {
    "duplicate": (doubled, {}, {}, "the train table has duplicate ids"),
    "duplicate in validation": (doubled, {"validation_fraction": 0.5}, {}, "duplicate ids"),
    "duplicate grouped": (
        lambda t: pa.concat_tables([t, t.slice(5, 1)]), {"group": "person"}, {}, "duplicate ids"),
    "duplicate across groups": (doubled, {"group": "person"}, {}, "duplicate ids"),
    "NaN": (with_feature(lambda n: pa.array([float("nan")] + [0.0] * (n - 1))), {}, {}, "'x1' has 1 row(s) with NaN"),
    "null": (with_feature(lambda n: pa.array([None, None] + [0.0] * (n - 2))), {}, {}, "'x1' has 2 null(s)"),
    "uuid": (with_feature(lambda n: pa.array([bytes(16)] * n, pa.uuid())), {}, {}, "'x1' has an Arrow extension type"),
    "uuid ids": (
        lambda t: replaced(t, "id", pa.array([i.to_bytes(16, "big") for i in range(len(t))], pa.uuid())),
        {}, {}, "'id' has an Arrow extension type, and can't be an id"),
    "float ids": (lambda t: replaced(t, "id", t["id"].cast(pa.float64())), {}, {}, "got: double"),
    "null id": (lambda t: replaced(t, "id", pa.array([None, *range(1, len(t))])), {}, {}, "got: NoneType"),
    "null label": (lambda t: replaced(t, "label", pa.array([None] + [1] * (len(t) - 1))), {}, {}, "nulls"),
    "float label": (lambda t: replaced(t, "label", t["x0"]), {}, {}, "'label' can't be a label"),
    "one class": (lambda t: replaced(t, "label", pa.array([4] * len(t))), {}, {}, "fewer than two classes"),
    "undeclared class": (lambda t: t, {"classes": [0, 1]}, {}, "outside the classes"),
    "one declared class": (lambda t: t, {"classes": [0]}, {}, "fewer than two classes"),
    "classes of another type": (lambda t: t, {"classes": ["a", "b", "c"]}, {}, "'label'"),
    "no id column": (lambda t: t, {"id": "key"}, {}, "data.id names a column that is not in the table"),
    "no group column": (lambda t: t, {"group": "user"}, {}, "data.group names a column"),
    "no feature": (lambda t: t, {"features": ["x0", "x9"]}, {}, "'x9' is missing"),
    "test lacks a column": (lambda t: t, {}, {TEST: lambda t: t.drop(["x2", "label"])}, "['label', 'x2']"),
    "test has NaN": (
        lambda t: t, {}, {TEST: with_feature(lambda n: pa.array([float("nan")] * n))}, "20 row(s) with NaN"),
    "test has another class": (
        lambda t: t, {}, {TEST: lambda t: replaced(t, "label", pa.array([7] * len(t)))}, "20 label(s)"),
    "test has duplicates": (lambda t: t, {}, {TEST: doubled}, "the test table has duplicate ids"),
    "test ids of another type": (
        lambda t: t, {}, {TEST: lambda t: replaced(t, "id", t["id"].cast(pa.string()))}, "'id'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.sampled
def test_bad_input_leaves_no_lake_and_a_corrected_retry_works(tmp_path, case):
    change, data, others, says = BAD[case]
    good = table(120, groups=8)
    write(tmp_path, change(good))
    raw = with_data(tmp_path, **data)
    raw["data"]["features"] = raw["data"].get("features", ["x0", "x1", "x2", "x3"])
    for name, spoil in others.items():
        write(tmp_path, spoil(table(20, groups=8, start=500)), name)
        raw["data"]["test"] = str(tmp_path / name)
    with pytest.raises(DataError) as error:
        open_lake(tmp_path, **raw)
    assert says in str(error.value)
    storage = tmp_path / "storage"
    assert [path for path in storage.rglob("*") if path.is_file()] == []
    assert list(storage.glob(".staging-*")) == []
    write(tmp_path, good)
    again = open_lake(tmp_path, data={"features": ["x0", "x1", "x2", "x3"]})
    assert len(lake_rows(again)) == 120


@pytest.mark.parametrize("what", ["missing", "not Parquet"])
def test_a_source_that_is_no_parquet(tmp_path, what):
    if what == "not Parquet":
        (tmp_path / "train.parquet").write_text("id,label\n1,2\n")
    with pytest.raises(DataError, match="can't read" if what == "not Parquet" else "does not exist"):
        open_lake(tmp_path)


# ---------------------------------------------------------------------- splits


@pytest.mark.parametrize("grouped", [True, False])
def test_the_validation_fraction_is_cut_by_group(tmp_path, grouped):
    made = table(600, groups=60, null_groups=40)
    write(tmp_path, made)
    data = {"validation_fraction": 0.3, "features": ["x0"]} | ({"group": "person"} if grouped else {})
    lake = open_lake(tmp_path, data=data)
    train, validation = lake_rows(lake), lake_rows(lake, "validation")
    assert sorted(row["id"] for row in train + validation) == list(range(600))
    assert len(validation) == sum(map(sum, lake.manifest.rows["validation"]))
    assert 0.15 < len(validation) / 600 < 0.45
    for row in train + validation:
        kind = "group" if grouped and row["person"] else "id"
        place_digest = digests(lake.key, kind, [row["person"] if kind == "group" else row["id"]])
        assert held_out(place_digest, 0.3)[0] == (row in validation)


def test_a_given_validation_table_wins_over_the_fraction(tmp_path):
    write(tmp_path, table(100))
    write(tmp_path, table(30, start=1000), "validation.parquet")
    data = {"validation": str(tmp_path / "validation.parquet"), "validation_fraction": 0.5}
    lake = open_lake(tmp_path, data=data)
    assert [sum(map(sum, lake.manifest.rows[split])) for split in ("train", "validation")] == [100, 30]


# ---------------------------------------------------------------------- memory

MEASURE = """
import json, sys
from pathlib import Path
from hybridmu.config import Settings
from hybridmu.store.storage.storage import Storage
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.lake import Lake

def status(name):  # getrusage would report the peak of the process that forked this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

def read(raw):
    settings = Settings.parse(raw)
    return ingest(Lake(settings, Storage(settings.storage_url)))

read(json.loads(sys.argv[1]))  # a small table, which loads what is loaded once
before = status("VmRSS")
manifest = read(json.loads(sys.argv[2]))
print(json.dumps([status("VmHWM") - before, sum(map(sum, manifest.rows["train"]))]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.slow
def test_memory_is_bounded_by_a_shard_not_by_the_table(tmp_path):
    rows, width, part = 200_000, 256, 4_000  # 205 MB, so 26 MB a shard
    schema = pa.schema([("id", pa.int64()), ("label", pa.int64()), ("v", pa.list_(pa.float32(), width))])
    rng = np.random.default_rng(0)
    for name, total in (("small", part), ("large", rows)):
        with pq.ParquetWriter(tmp_path / name, schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, total, part):
                values = pa.array(rng.random(part * width, dtype=np.float32))
                batch = [np.arange(start, start + part), np.arange(part) % 2]
                batch.append(pa.FixedSizeListArray.from_arrays(values, width))
                writer.write_table(pa.table(batch, schema=schema))
    raw = [
        json.dumps({
            "data": {"train": str(tmp_path / name), "classes": [0, 1], "test_fraction": 0},
            "sisa": {"shards": 8, "slices": 4},
            "storage_url": str(tmp_path / f"{name}-storage"),
        })
        for name in ("small", "large")
    ]
    done = subprocess.run([sys.executable, "-c", MEASURE, *raw], capture_output=True, text=True, check=True)
    used, read = json.loads(done.stdout)
    table_mb = rows * width * 4 / 2**20
    assert read == rows
    assert used < 0.65 * table_mb, f"{used:.0f} MB for a table of {table_mb:.0f} MB"
