"""Purging files: surveys, tables and indexes without the rows, swept blobs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hybridmu.core.kernel.partition import digest
from hybridmu.errors import PurgeError
from hybridmu.runtime.purge import row_purge, table_rewrite
from hybridmu.runtime.purge.row_purge import purge_indexes, purge_rows, sweep
from hybridmu.runtime.purge.survey import survey
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.storage.blobs import Blobs
from hybridmu.store.storage.parquet import publish_parquet, read_parquet, values_apart, writing
from hybridmu.store.storage.plain_tables import plain
from hybridmu.store.storage.storage import Storage
from hybridmu.types import NO_KEYS, KeySet
from hybridmu.types.surveys import Survey
from tests import support


@pytest.fixture
def lake(tmp_path):
    """Grouped train and test tables of three shards; p0 and p1 have rows in both."""
    support.make_table(tmp_path / "train.parquet", 90, ids="str", groups=12, null_groups=9)
    support.make_table(tmp_path / "test.parquet", 40, ids="str", groups=12, seed=1, start=500)
    data = {"group": "person", "test": str(tmp_path / "test.parquet")}
    return support.open_lake(tmp_path, data=data, sisa={"shards": 3})


def places(lake, *, ids=(), groups=()) -> dict[int, KeySet]:
    """Shard → keys of raw ids and groups."""
    found, _ = Lookup(lake).find([*(("id", x) for x in ids), *(("group", x) for x in groups)])
    return {shard: KeySet.of(one for one in found if one.shard == shard) for shard in {one.shard for one in found}}


def survey_of(lake, shard, keys) -> Survey:
    return survey(lake, shard, {"r": keys})[0]["r"]


def everything(lake, split) -> dict[str, dict]:
    return {row["id"]: row for row in support.lake_rows(lake, split)}


# ---------------------------------------------------------------------- surveys


def test_a_survey_names_the_rows_of_all_tables_and_what_tells_of_them(lake):
    [(shard, keys)] = places(lake, groups=["p1"]).items()
    found = survey_of(lake, shard, keys)
    rows = {
        split: [row for row in support.lake_rows(lake, split) if row["person"] == "p1"] for split in ("train", "test")
    }
    assert all(rows.values())
    assert found.rows == {(split, row["_id"], row["_content"]) for split, some in rows.items() for row in some}
    assert found.content == {row["_content"] for row in rows["train"]}
    assert found.needles == found.ids | {digest(lake.key, "group", "p1")}, "short ids and names tell nothing"
    assert Survey.from_json(found.to_json()) == found


def test_raw_ids_are_needles_where_they_tell_of_a_row(tmp_path):
    names = ["customer-7", "1234567", "12345678901234", "x" * 8, "12345678"]
    made = support.table(5, ids="str")
    support.write(tmp_path, support.replaced(made, "id", pa.array(names)))
    lake = support.open_lake(tmp_path, sisa={"shards": 1})
    [(shard, keys)] = places(lake, ids=names).items()
    assert survey_of(lake, shard, keys).raw == {b"customer-7", b"12345678901234", b"xxxxxxxx"}


def test_one_row_of_a_group_does_not_make_its_group_a_needle(tmp_path):
    made = support.table(30, ids="str", groups=2)
    people = pa.array([f"household-{name}" for name in made["person"].to_pylist()])
    support.write(tmp_path, support.replaced(made, "person", people))
    lake = support.open_lake(tmp_path, data={"group": "person"}, sisa={"shards": 1})
    owner = made["person"][0].as_py()
    assert survey_of(lake, 0, places(lake, ids=["r0"])[0]).raw == set()
    assert survey_of(lake, 0, places(lake, groups=[f"household-{owner}"])[0]).raw == {f"household-{owner}".encode()}


def test_requests_are_surveyed_apart_and_held_rows_are_noticed(lake):
    person = everything(lake, "train")["r20"]["person"]
    [(shard, group)] = places(lake, groups=[person]).items()
    one = places(lake, ids=["r20"])[shard]
    found, waiting = survey(lake, shard, {"group": group, "one": one, "none": NO_KEYS}, held=one)
    assert (found["one"].rows < found["group"].rows, len(found["one"].rows)) == (True, 1)
    assert found["none"] == Survey()
    assert waiting == {"group", "one"}, "the group has the held row among others"
    assert survey(lake, shard, {"group": group}, held=KeySet([("id", bytes(16))]))[1] == frozenset()


def test_a_repeated_survey_adds_to_an_earlier_one(lake):
    [(shard, keys)] = places(lake, groups=["p1"]).items()
    before = survey_of(lake, shard, keys)
    purge_rows(lake, shard, keys)
    after = survey_of(lake, shard, keys)
    assert after.rows == frozenset()
    assert before.merged(after) == before


# ---------------------------------------------------------------------- tables


def test_exactly_the_rows_go_from_every_table(lake):
    before = {split: everything(lake, split) for split in ("train", "test")}
    gone = {"r20", "r40", "r501"} | {
        name for rows in before.values() for name, row in rows.items() if row["person"] == "p1"
    }
    for shard, keys in places(lake, ids=["r20", "r40", "r501"], groups=["p1"]).items():
        assert purge_rows(lake, shard, keys)
        assert purge_rows(lake, shard, keys) == (), "a repeated call finds it done"
    for split, rows in before.items():
        assert everything(lake, split) == {name: row for name, row in rows.items() if name not in gone}


def test_types_and_units_stay_and_what_stands_apart_from_rows_goes(lake):
    [name] = lake.files("train", 0)
    table = read_parquet(lake.storage, name)
    count = len(table)
    moments = [datetime(2024, 5, 6, 7, 8, 9, n, tzinfo=UTC) for n in range(count)]
    extra = {
        "at": pa.array(moments, pa.timestamp("us", "Europe/Rome")),
        "day": pa.array([moment.date() for moment in moments]),
        "amount": pa.array([n * 100 for n in range(count)], pa.int64()).cast(pa.decimal128(21, 2)),
        "kind": pa.array(["a", "b", None] * count).slice(0, count).dictionary_encode(),
        "lists": pa.array([[float(n)] * 3 for n in range(count)], pa.list_(pa.float32(), 3)),
        "small": pa.array([n % 100 for n in range(count)], pa.int8()),
    }
    for column, values in extra.items():
        field = pa.field(column, values.type, metadata={"unit": f"of {column}"})
        table = table.append_column(field, values)
    table = table.replace_schema_metadata({"made by": "somebody", "pandas": "{}"})
    with lake.storage.staging() as folder:
        pq.write_table(table, folder / "t", row_group_size=7, **writing(table.schema))
        publish_parquet(lake.storage, folder / "t", name)
    table = read_parquet(lake.storage, name)
    victim = table["id"][3].as_py()
    assert purge_rows(lake, 0, places(lake, ids=[victim])[0]) == (name,)
    left = read_parquet(lake.storage, name)
    stayed = table.filter(pa.array([row != victim for row in table["id"].to_pylist()]))
    assert left.equals(plain(stayed))
    assert [kind for kind in left.schema.types if kind not in table.schema.types] == []
    assert left.schema.field("kind").type == pa.string()
    with pq.ParquetFile(lake.storage.path(name)) as file:
        assert values_apart(file.schema_arrow) is None
        assert b"somebody" not in lake.storage.read(name)
        assert file.num_row_groups == -(-len(table) // 7), "row by row group, so that none crosses a slice"


def test_a_table_may_lose_all_its_rows(lake):
    [name] = lake.files("test", 1)
    ids = read_parquet(lake.storage, name)["id"].to_pylist()
    purge_rows(lake, 1, places(lake, ids=ids)[1])
    assert len(read_parquet(lake.storage, name)) == 0
    assert len(lake.rows("test", 1, set())) == 0
    assert len(lake.keys("test", 1).ids) == 0


def test_a_file_that_still_holds_a_row_is_an_error(lake, monkeypatch):
    monkeypatch.setattr(row_purge, "rewrite", lambda *_: 1)  # a disk that lies
    [(shard, keys)] = places(lake, groups=["p1"]).items()
    with pytest.raises(PurgeError, match="not what a purge should leave"):
        purge_rows(lake, shard, keys)
    found = survey_of(lake, shard, keys)
    with pytest.raises(PurgeError, match="not what a purge should leave"):
        purge_indexes(lake, {(shard, id_) for id_ in found.ids}, found.content)


def test_a_file_that_lost_another_row_is_an_error(lake, monkeypatch):
    [(shard, keys)] = places(lake, groups=["p1"]).items()
    real = row_purge.rewrite

    def greedy(storage, name, gone):
        taken = iter([True])

        def more(table):
            mask = gone(table)
            others = [n for n, going in enumerate(mask) if not going]
            if others and next(taken, False):
                mask[others[0]] = True
            return mask

        return real(storage, name, more)

    monkeypatch.setattr(row_purge, "rewrite", greedy)
    with pytest.raises(PurgeError, match="not what a purge should leave"):
        purge_rows(lake, shard, keys)


# ---------------------------------------------------------------------- indexes


def index_entries(lake, kind: str) -> Counter:
    names = [name for part in range(lake.shards) for name in lake.index_files(part) if f"/{kind}-" in name]
    tables = [read_parquet(lake.storage, name) for name in names]
    return Counter((row["_id"], row["shard"]) for table in tables for row in table.to_pylist())


def test_index_entries_go_and_others_stay(lake):
    before = {kind: index_entries(lake, kind) for kind in ("id", "content")}
    assert all(before.values())
    [(shard, keys)] = places(lake, groups=["p1"]).items()
    found = survey_of(lake, shard, keys)
    done, left = purge_indexes(lake, {(shard, id_) for id_ in found.ids}, found.content)
    assert done
    assert left == 0
    for kind, entries in before.items():
        assert index_entries(lake, kind) == Counter({
            pair: n for pair, n in entries.items() if pair[0] not in found.ids
        })
    assert purge_indexes(lake, {(shard, id_) for id_ in found.ids}, found.content) == ((), 0)


def test_the_same_id_in_another_shard_stays_findable(tmp_path):
    """One person's row in the training table, another's of the same id in the test table."""
    support.make_table(tmp_path / "train.parquet", 40, ids="str", groups=9)
    support.make_table(tmp_path / "test.parquet", 40, ids="str", groups=9, seed=3)
    data = {"group": "person", "test": str(tmp_path / "test.parquet")}
    lake = support.open_lake(tmp_path, data=data, sisa={"shards": 3})
    train = {row["id"]: row["shard"] for row in support.lake_rows(lake, "train")}
    test = {row["id"]: row["shard"] for row in support.lake_rows(lake, "test")}
    name = next(name for name in train if test[name] != train[name])
    found = survey_of(lake, train[name], places(lake, ids=[name])[train[name]])
    purge_indexes(lake, {(train[name], id_) for id_ in found.ids}, found.content)
    purge_rows(lake, train[name], found.keys)
    assert places(lake, ids=[name]).keys() == {test[name]}
    assert name in everything(lake, "test")


def test_live_duplicates_are_counted(tmp_path):
    made = support.table(30, ids="str")
    copies = support.replaced(made.slice(3, 2), "id", pa.array(["copy-of-r3", "copy-of-r4"]))
    support.write(tmp_path, pa.concat_tables([made, copies, support.replaced(copies, "id", pa.array(["a", "b"]))]))
    lake = support.open_lake(tmp_path, sisa={"shards": 2})
    [(shard, keys)] = places(lake, ids=["r3"]).items()
    found = survey_of(lake, shard, keys)
    assert purge_indexes(lake, {(shard, id_) for id_ in found.ids}, found.content)[1] == 2
    assert purge_indexes(lake, {(shard, id_) for id_ in found.ids}, found.content) == ((), 2)
    purge_rows(lake, shard, keys)
    assert {"copy-of-r3", "a"} < everything(lake, "train").keys()


# ---------------------------------------------------------------------- cost


def test_each_touched_file_is_read_and_written_once(lake, monkeypatch):
    keys = places(lake, ids=["r20", "r21", "r22", "r501"], groups=["p1", "p2"])
    found = {shard: survey_of(lake, shard, mine) for shard, mine in keys.items()}
    reads, writes = Counter(), Counter()
    real_open, real_publish = table_rewrite.open_parquet, Storage.publish

    def opened(storage, name):
        reads[name] += 1
        return real_open(storage, name)

    def published(storage, source, name):
        writes[name] += 1
        real_publish(storage, source, name)

    monkeypatch.setattr(table_rewrite, "open_parquet", opened)
    monkeypatch.setattr(Storage, "publish", published)
    rows = {(shard, id_) for shard, survey in found.items() for id_ in survey.ids}
    done, _ = purge_indexes(lake, rows, {x for survey in found.values() for x in survey.content})
    tables = [name for shard, mine in keys.items() for name in purge_rows(lake, shard, mine)]
    assert writes == Counter([*done, *tables])
    assert set(writes.values()) == {1}
    assert reads == writes
    assert len(tables) >= 3


# ---------------------------------------------------------------------- blobs


def test_what_the_served_version_stands_on_stays_and_nothing_else(tmp_path):
    storage = Storage(str(tmp_path))
    blobs = Blobs(storage)
    refs = [blobs.put({"w": torch.full((2,), float(n))}, 1) for n in range(4)]
    other = blobs.put({"w": torch.zeros(2)}, 2)
    for n, ref in enumerate(refs):
        blobs.record(1, f"{n:048d}", ref)
    storage.write("blobs/shard-00001/unfinished.safetensors." + "0" * 32 + ".tmp", b"x")
    assert sweep(blobs, 1, refs[:2], [f"{0:048d}"]) == 2 + 3 + 1
    assert blobs.listed(1) == (set(refs[:2]), {f"{0:048d}"})
    assert blobs.listed(2)[0] == {other}
    assert sweep(blobs, 1, refs[:2], [f"{0:048d}"]) == 0


def test_a_blob_that_does_not_go_is_an_error(tmp_path, monkeypatch):
    blobs = Blobs(Storage(str(tmp_path)))
    blobs.put({"w": torch.zeros(2)}, 1)
    monkeypatch.setattr(Storage, "delete", lambda *_: None)
    with pytest.raises(PurgeError, match=r"1 old file\(s\) of shard 1"):
        sweep(blobs, 1, [], [])
