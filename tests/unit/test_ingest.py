from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from hybridmu.core.partition import digest, digests, held_out, place
from hybridmu.errors import DataError, HybridMUError, StateError
from tests.support import lake_rows, open_lake, table

GROUPED = {"data": {"group": "person"}}


def write(folder, made: pa.Table, name="train.parquet", **options):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, folder / name, **options)


def with_data(folder, **data):
    return {"data": {"train": str(folder / "train.parquet"), **data}}


def replaced(made: pa.Table, name: str, values) -> pa.Table:
    return made.set_column(made.column_names.index(name), name, values)


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
        file = pq.ParquetFile(lake.storage.path(f"lake/train/shard-{shard:05d}.parquet"))
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
    assert first.manifest == second.manifest


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
        {}, {}, "an id or group has the wrong type"),
    "float ids": (lambda t: replaced(t, "id", t["id"].cast(pa.float64())), {}, {}, "got: float"),
    "null id": (lambda t: replaced(t, "id", pa.array([None, *range(1, len(t))])), {}, {}, "got: NoneType"),
    "null label": (lambda t: replaced(t, "label", pa.array([None] + [1] * (len(t) - 1))), {}, {}, "nulls"),
    "float label": (lambda t: replaced(t, "label", t["x0"]), {}, {}, "label column has the wrong type"),
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
    with pytest.raises(DataError, match="can't read"):
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


@pytest.mark.parametrize("grouped", [True, False])
def test_one_id_in_train_and_test_is_forgotten_in_both(tmp_path, grouped):
    train, test = table(80, groups=12), table(80, groups=12, seed=5)  # the same ids, with other persons
    write(tmp_path, train)
    write(tmp_path, test, TEST)
    data = {"test": str(tmp_path / TEST), "features": ["x0"]} | ({"group": "person"} if grouped else {})
    lake = open_lake(tmp_path, data=data)
    where = {(s, r["id"]): (r["shard"], r["_slice"]) for s in ("train", "test") for r in lake_rows(lake, s)}
    apart = [i for i in range(80) if where["train", i][0] != where["test", i][0]]
    assert bool(apart) == grouped
    for number in range(80):
        fresh, known, unknown = lake.resolve([("id", number)], {})
        assert (known, unknown) == ([], [])
        assert {(k.shard) for k in fresh} == {where["train", number][0], where["test", number][0]}
        assert sum(k.rows for k in fresh) == 2
        gone = {k.shard: {(k.kind, k.key)} for k in fresh}
        left = [i for s in ("train", "test") for shard in range(4) for i in lake.rows(s, shard, gone.get(shard, set())).ids]
        assert len(left) == 158
        half = dict(list(gone.items())[:1])
        again = lake.resolve([("id", number)], half)
        assert sum(k.rows for k in again[0]) == (1 if len(gone) == 2 else 0)
        assert len(again[1]) == (0 if len(gone) == 2 else 1)


# ---------------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A grouped lake with validation and test, and its rows as plain dictionaries."""
    folder = tmp_path_factory.mktemp("people")
    write(folder, table(150, groups=15, null_groups=10))
    write(folder, table(40, groups=25, seed=3, start=140), TEST)
    data = {"group": "person", "validation_fraction": 0.2, "test": str(folder / TEST)}
    lake = open_lake(folder, data=data)
    rows = [{**row, "split": s} for s in ("train", "validation", "test") for row in lake_rows(lake, s)]
    return lake, rows


KEYS = st.tuples(st.just("id"), st.integers(-5, 185)) | st.tuples(
    st.just("group"), st.sampled_from([f"p{i}" for i in range(27)])
)


@limits(max_examples=50)
@given(before=st.lists(KEYS, max_size=6), asked=st.lists(KEYS, max_size=12))
def test_resolve_against_brute_force(people, before, asked):
    lake, rows = people
    column = {"id": "id", "group": "person"}
    gone: dict[int, set] = {}
    for key in lake.resolve(before, {})[0]:
        gone.setdefault(key.shard, set()).add((key.kind, key.key))
    dead = {id(row) for row in rows if any(row[column[kind]] == value for kind, value in before)}
    expected: dict[str, Counter] = {"fresh": Counter(), "known": Counter()}
    unknown = []
    for kind, value in dict.fromkeys(asked):
        mine = [row for row in rows if row[column[kind]] == value]
        raw = digest(lake.key, kind, value)
        live = [row for row in mine if id(row) not in dead]
        if not mine:
            unknown.append(str(value))
        elif live:
            expected["fresh"].update((kind, raw, row["shard"]) for row in live)
        else:
            expected["known"].update({(kind, raw, row["shard"]) for row in mine})
    fresh, known, missing = lake.resolve(asked, gone)
    assert missing == unknown  # as the caller wrote them, in the caller's order
    assert {(k.kind, k.key, k.shard): k.rows for k in fresh} == expected["fresh"]
    assert {(k.kind, k.key, k.shard) for k in known} == set(expected["known"])
    assert all(k.rows == 0 for k in known)
    slices = {(row["_id"], row["shard"]): row["_slice"] for row in reversed(rows)}
    assert all(k.slice == slices[k.key, k.shard] for k in fresh if k.kind == "id")


@limits(max_examples=25)
@given(gone=st.lists(KEYS, max_size=8))
def test_live_rows_and_counts_against_brute_force(people, gone):
    lake, rows = people
    revoked = {(kind, digest(lake.key, kind, value)) for kind, value in gone}
    dead = {id(row) for row in rows if ("id", row["_id"]) in revoked or ("group", row["_group"]) in revoked}
    for split in ("train", "validation", "test"):
        for shard in range(lake.shards):
            mine = [row for row in rows if (row["split"], row["shard"]) == (split, shard)]
            live = Counter(row["_slice"] for row in mine if id(row) not in dead)
            lost = Counter(row["_slice"] for row in mine if id(row) in dead)
            expected = tuple(tuple(c[i] for i in (1, 2, 3)) for c in (live, lost))
            assert lake.counts(split, shard, revoked) == expected
            assert lake.rows(split, shard, revoked).counts(3) == expected[0]
            assert lake.rows(split, shard, revoked, only_revoked=True).counts(3) == expected[1]


@pytest.mark.parametrize(("asked", "found"), [("7", 7), (7, 7), (np.int64(7), 7), (" 7", None), ("07", None),
                                              ("1_0", None), ("+7", None), ("7.0", None), (7.0, None), ("x", None),
                                              ("-0", None), ("٧", None), (True, None)])  # fmt: skip
def test_an_integer_id_has_one_text_form(tmp_path, asked, found):
    write(tmp_path, table(12))
    lake = open_lake(tmp_path)
    fresh, _, unknown = lake.resolve([("id", asked)], {})
    assert [k.key for k in fresh] == ([digest(lake.key, "id", found)] if found is not None else [])
    assert unknown == ([] if found is not None else [str(asked)])


@pytest.mark.parametrize("dictionary", [False, True])
def test_text_ids_and_groups_that_look_like_numbers(tmp_path, dictionary):
    made = table(40, groups=5)
    made = replaced(made, "id", made["id"].cast(pa.string()))
    made = replaced(made, "person", pc.replace_substring(made["person"], "p", "0"))
    if dictionary:  # what pandas writes for a categorical
        made = replaced(replaced(made, "id", made["id"].dictionary_encode()), "person", made["person"].dictionary_encode())
    write(tmp_path, made, row_group_size=9)
    lake = open_lake(tmp_path, **GROUPED)
    for asked in ("7", 7):
        assert [k.rows for k in lake.resolve([("id", asked)], {})[0]] == [1]
    rows = made["person"].to_pylist().count("03")
    assert [k.rows for k in lake.resolve([("group", "03")], {})[0]] == [rows]
    assert lake.resolve([("group", "3")], {})[2] == ["3"]


def test_dictionary_features_that_differ_between_row_groups(tmp_path):
    words = pa.array([f"w{i // 20}" for i in range(60)])
    made = table(60).append_column("word", words.dictionary_encode())
    write(tmp_path, made, row_group_size=20)
    plain = table(60).append_column("word", words)
    write(tmp_path / "plain", plain)
    a, b = open_lake(tmp_path), open_lake(tmp_path / "plain")
    for shard in range(4):
        assert (a.rows("train", shard, set()).x == b.rows("train", shard, set()).x).all()


def test_groups_asked_of_a_table_without(tmp_path):
    write(tmp_path, table(30))
    with pytest.raises(HybridMUError, match="no groups"):
        open_lake(tmp_path).resolve([("group", "p1")], {})


def test_twins_are_counted_over_all_shards(tmp_path):
    made = table(40, groups=6)
    copies = [made.slice(0, 10)] * 2
    rows = pa.concat_tables([made, *copies, replaced(made.slice(10, 5), "label", pa.array([9] * 5))])
    rows = replaced(rows, "id", pa.array(range(len(rows))))
    rows = replaced(rows, "person", pa.array([f"q{i}" for i in range(len(rows))]))
    write(tmp_path, rows)
    lake = open_lake(tmp_path, **GROUPED)
    content = {i: (*(row[f"x{j}"] for j in range(4)), row["label"]) for i, row in enumerate(rows.to_pylist())}
    for gone, before in (([0], []), ([0, 40], []), ([0, 40, 50], []), ([3, 12], [43]), ([12], []), ([61], [])):
        keys = lake.resolve([("id", i) for i in gone], {})[0]
        revoked: dict[int, set] = {}
        for key in lake.resolve([("id", i) for i in gone + before], {})[0]:
            revoked.setdefault(key.shard, set()).add((key.kind, key.key))
        live = set(content) - set(gone) - set(before)
        assert lake.twins(keys, revoked) == sum(content[i] in {content[g] for g in gone} for i in live)


# ---------------------------------------------------------------------- memory

MEASURE = """
import json, sys
from pathlib import Path
from hybridmu.config import Settings
from hybridmu.store.blobs import Storage
from hybridmu.store.ingest import ingest
from hybridmu.store.lake import Lake

def status(name):  # getrusage would report the peak of the process that forked this one
    return next(int(l.split()[1]) / 1024 for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))

def read(raw):
    settings = Settings.parse(raw)
    return ingest(Lake(settings, Storage(settings.storage_url)))

read(json.loads(sys.argv[1]))  # a small table, which loads what is loaded once
before = status("VmRSS")
manifest = read(json.loads(sys.argv[2]))
print(json.dumps([status("VmHWM") - before, sum(map(sum, manifest.rows["train"]))]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
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
            "data": {"train": str(tmp_path / name), "classes": [0, 1]},
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
