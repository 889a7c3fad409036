"""Names of a source table's columns, indexes of pandas among them: none is lost, and ours are no feature."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.errors import DataError
from hybridmu.server.schemas import Keys
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.layout import META
from hybridmu.store.dataset.reshard_import import Predecessor, inherit
from hybridmu.store.dataset.waiting_rows import rewrite
from hybridmu.store.ledger.file_seals import drop_copies, record_copy
from hybridmu.store.storage.parquet import publish_parquet, read_parquet
from tests.source_tables import INT64, UINT64, refused
from tests.support import lake_rows, local_system, open_lake, replaced, settings_dict, table, write


@pytest.mark.parametrize("frame", ["shuffled", "named index", "two levels"])
def test_an_index_of_pandas_is_no_feature(tmp_path, frame):
    made = table(40).to_pandas().sample(frac=1.0, random_state=1)
    made = made.set_index(pd.Index(np.arange(40), name="order")) if frame == "named index" else made
    made = made.set_index([made["id"].to_numpy(), np.arange(40)]) if frame == "two levels" else made
    made.to_parquet(tmp_path / "train.parquet")
    lake = open_lake(tmp_path)
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "x1", "x2", "x3"]


def test_an_index_of_pandas_may_be_the_id_or_a_named_feature(tmp_path):
    table(40).to_pandas().sample(frac=1.0, random_state=1).set_index("id").to_parquet(tmp_path / "train.parquet")
    assert sorted(row["id"] for row in lake_rows(open_lake(tmp_path))) == list(range(40))
    made = table(40).to_pandas()
    made.set_index(pd.Index(np.arange(40)[::-1] % 7, name="order")).to_parquet(tmp_path / "train.parquet")
    other = settings_dict(tmp_path)["storage_url"] + "-2"
    lake = open_lake(tmp_path, storage_url=other, data={"features": ["x0", "order"]})
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "order"]


@pytest.mark.parametrize("index", ["a", ["id", "a"], ["a", "b"], "range"])
@pytest.mark.sampled
def test_a_column_that_is_an_index_is_not_left_out_without_a_word(tmp_path, index):
    made = table(60).rename_columns({"x0": "a", "x1": "b"}).to_pandas()
    order = pd.RangeIndex(60, name="a")
    made = made.drop(columns="a").set_index(order) if index == "range" else made.set_index(index)
    made.to_parquet(tmp_path / "train.parquet")
    with local_system(tmp_path) as system:
        warnings = system.train()["warnings"]
        left = [warning for warning in warnings if "an index of pandas is no feature" in warning]
        assert len(left) == 1
        assert f"{'a'!r}{', ' + repr('b') if index == ['a', 'b'] else ''} of {tmp_path}" in left[0]
        assert "a" not in [column.name for column in system.site.lake.manifest.encoder.columns]


@pytest.mark.parametrize("index", [None, "id", "label", "unnamed", "declared"])
@pytest.mark.sampled
def test_an_index_that_is_no_loss_is_none_to_speak_of(tmp_path, index):
    made = table(60).to_pandas()
    if index == "unnamed":
        made = made.set_index(pd.Index([f"k{n}" for n in range(60)]))
    elif index == "id":
        made = made.sample(frac=1.0, random_state=1).set_index("id")
    elif index is not None:
        made = made.set_index("x0" if index == "declared" else index)
    made.to_parquet(tmp_path / "train.parquet")
    data = {"features": ["x1", "x2"]} if index == "declared" else {}
    with local_system(tmp_path, data=data) as system:
        assert not [warning for warning in system.train()["warnings"] if "pandas" in warning]


@pytest.mark.parametrize("role", ["id", "group", "label", "feature"])
def test_an_index_that_pandas_wrote_as_a_range_is_asked_for(tmp_path, role):
    made = table(60, groups=3).to_pandas()
    name = {"group": "person", "feature": "x0"}.get(role, role)
    made.drop(columns=name).set_index(pd.RangeIndex(60, name=name)).to_parquet(tmp_path / "train.parquet")
    message = refused(tmp_path, group="person", features=["x0", "x1"])
    assert name in message
    assert "write df.reset_index()" in message
    write(tmp_path, table(60, groups=3), "first.parquet")
    data = {"train": str(tmp_path / "first.parquet"), "test": str(tmp_path / "train.parquet")}
    message = refused(tmp_path, group="person", **data)
    assert f"the test table lacks columns ['{name}']" in message
    assert "write df.reset_index()" in message


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'{"index_columns": 3}',
        b'{"index_columns": [{"kind": "range"}]}',
        b'{"index_columns": [{"name": ["id"]}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_metadata_that_only_looks_like_that_of_pandas(tmp_path, data):
    write(tmp_path, table(40).replace_schema_metadata({b"pandas": data}))
    assert len(lake_rows(open_lake(tmp_path))) == 40


@pytest.mark.parametrize(
    "names",
    [
        {"id": "_id", "person": "_group", "label": "_content", "x0": "_slice"},
        {
            "id": "_slice",
            "person": "=_id",
            "label": "_id",
            "x0": "==_id",
            "x1": "source",
            "x2": "_Id",
            "x3": "_group",
        },
    ],
    ids=["ours", "almost ours"],
)
@pytest.mark.sampled
def test_our_own_names_can_be_the_users(tmp_path, names):
    made = table(60, groups=6)
    made = made.rename_columns([names.get(name, name) for name in made.column_names])
    write(tmp_path, made.slice(0, 40))
    write(tmp_path, made.slice(40), "new.parquet")
    data = {"id": names["id"], "group": names["person"], "label": names["label"]}
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet", wait=True)
        people = made[names["person"]].to_pylist()
        assert system.forget(groups=[people[0]], wait=True)["state"] in {"SERVED", "PURGED"}
        corrected = next(number for number, person in enumerate(people) if person != people[0])
        system.correct(one_row(tmp_path, made.slice(corrected, 1)), wait=True)
        found = lake_rows(system.site.lake)
        for name in made.column_names:
            kept = [row["=" + name if name.lstrip("=") in META else name] for row in found]
            left = [value for person, value in zip(people, made[name].to_pylist(), strict=True) if person != people[0]]
            assert sorted(kept) == sorted(left)
        row = {name: value for name, value in made.slice(0, 1).to_pylist()[0].items() if name not in data.values()}
        assert len(system.predict([row])["predictions"]) == 1


def one_row(folder, row: pa.Table):
    pq.write_table(row, folder / "row.parquet")
    return folder / "row.parquet"


def test_names_that_tables_may_have(tmp_path):
    odd = ["X0", "x0.y", "ü\u202e", "a\0b", "y" * 3000, " x0", "id ", "a b", "[b]"]
    made = table(40)
    for number, name in enumerate(odd):
        made = made.append_column(name, pa.array(np.arange(40) + number * 1.0))
    write(tmp_path, made)
    lake = open_lake(tmp_path)
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "x1", "x2", "x3", *odd]
    assert {row["id"]: [row[name] for name in odd] for row in lake_rows(lake)} == {
        i: [i + float(number) for number in range(len(odd))] for i in range(40)
    }
    rows = lake.rows("train", 0, set())
    assert rows.x.shape[1] == 4 + len(odd)


def test_names_that_tables_may_not_have(tmp_path):
    made = table(40)
    write(tmp_path, made.append_column("", made["x0"]))
    assert "a feature column has no name" in refused(tmp_path)
    write(tmp_path, made.append_column("x0", made["x1"]))
    assert "two columns named 'x0'" in refused(tmp_path)
    assert len(lake_rows(open_lake(tmp_path, data={"features": ["x1"]}))) == 40


def test_metadata_and_dictionaries_of_a_source_are_not_kept(tmp_path):
    names = pa.array([f"somebody-{number}" for number in range(40)])
    made = table(40, groups=5).append_column("name", names.dictionary_encode())
    field = pa.field("x0", pa.float32(), metadata={"most": "somebody-39"})
    schema = made.schema.set(made.schema.get_field_index("x0"), field)
    made = made.cast(schema).replace_schema_metadata({"people": "somebody-7"})
    write(tmp_path, made.slice(0, 30))
    write(tmp_path, made.slice(30), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        new = system.ingest(tmp_path / "new.parquet")
        files = [system.site.storage.path(name) for name in (*system.site.lake.names(), new["source"])
                 if system.site.storage.exists(name)]  # fmt: skip
        assert len(files) > 5
        for file in files:
            schema = pq.read_schema(file)
            assert not any(pa.types.is_dictionary(found.type) for found in schema)
            assert b"somebody" not in b"".join(
                value for found in (schema, *schema) for value in (found.metadata or {}).values()
            )


@pytest.mark.parametrize("column", ["id", "person"])
def test_keys_that_no_request_could_name_do_not_come_in(tmp_path, column):
    made = table(40, groups=5)
    keys = pa.array(["x" * 65_536, "", "\0", *(f"p{n}" for n in range(37))])
    write(tmp_path, replaced(made, column, keys))
    assert len(lake_rows(open_lake(tmp_path, data={"group": "person"}))) == 40
    keys = pa.array(["x" * 65_537, *(f"p{n}" for n in range(39))])
    write(tmp_path, replaced(made, column, keys))
    with pytest.raises(DataError, match="an id or group is too long"):
        open_lake(tmp_path, data={"group": "person"}, storage_url=str(tmp_path / "other"))


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, INT64)),
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, UINT64)),
    st.lists(TEXT, min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, pa.string())),
)


@settings(max_examples=12)
@given(ids=KEYS, groups=KEYS, names=st.lists(TEXT, min_size=3, max_size=3, unique=True))
def test_whatever_comes_in_can_be_named(tmp_path_factory, ids, groups, names):
    """Every key of a table that is accepted is found again, as itself and as text, and passes the HTTP interface."""
    folder = tmp_path_factory.mktemp("lake")
    id_, group, label = (name or "c" for name in names)
    rows = min(len(ids), len(groups))
    if len({id_, group, label, "x"}) < 4 or rows < 2 or "\0" in id_ + group + label:  # no text of a file has one
        return
    made = {id_: ids[:rows], group: groups[:rows], label: [n % 2 for n in range(rows)], "x": np.arange(rows) * 1.0}
    write(folder, pa.table(made))
    lake = open_lake(folder, data={"id": id_, "group": group, "label": label})
    for kind, column in (("id", ids[:rows]), ("group", groups[:rows])):
        for value in column.to_pylist():
            sent = json.loads(json.dumps({f"{kind}s": [value, str(value)]}))
            for named in getattr(Keys.model_validate(sent), f"{kind}s"):
                found, unknown = Lookup(lake).find([(kind, named)])
                assert len(found) == 1
                assert not unknown


def test_a_waiting_copy_of_an_older_release_loses_its_dictionaries(tmp_path):
    """Such a copy holds the names of all rows beside them: what is taken out of it, and what comes of it, is plain."""
    made = table(60, groups=6)
    write(tmp_path, made.slice(0, 30))
    write(tmp_path, made.slice(30), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        new = system.ingest(tmp_path / "new.parquet")
        storage, lake = system.site.storage, system.site.lake
        copy = read_parquet(storage, new["source"])
        old = replaced(copy, "person", copy["person"].combine_chunks().dictionary_encode())
        with storage.staging() as folder:
            pq.write_table(old, folder / "old.parquet", write_page_checksum=True)
            publish_parquet(storage, folder / "old.parquet", new["source"])

        def record(seal: str) -> None:  # as the first start of this release does
            with system.database.engine.begin() as connection:
                drop_copies(connection, sa.select(sa.literal("")))
                record_copy(connection, new["source"], seal)

        record(lake.seal_of(new["source"]))
        system.forget(groups=["p1"])
        people = made.slice(30)["person"].to_pylist()
        assert rewrite(lake, system.ingestions.get(new["ingest_id"]), system.guard, record) == people.count("p1") > 0
        left = pq.read_table(storage.path(new["source"]))
        assert left.schema.field("person").type == pa.string()
        assert left["person"].to_pylist() == [person for person in people if person != "p1"]
        assert b"p1" not in storage.read(new["source"])
        system.wait_for_rows(new["ingest_id"])
        lake.refresh()
        grown = [name for shard in range(4) for name in lake.files("train", shard) if "g0001" in name]
        assert sum(pq.read_metadata(storage.path(name)).num_rows for name in grown) == len(left)
        assert all(pq.read_schema(storage.path(name)).field("person").type == pa.string() for name in grown)


def test_a_successor_takes_over_names_and_types(tmp_path):
    names = {"id": "_id", "person": "_group"}
    made = table(60, groups=6)
    made = made.rename_columns([names.get(name, name) for name in made.column_names])
    small = replaced(made.slice(0, 30), "_id", made["_id"].slice(0, 30).cast(pa.int16()))
    write(tmp_path, replaced(small, "_group", pa.nulls(30)))
    write(tmp_path, replaced(made.slice(30), "x0", pa.array(range(30))), "new.parquet")
    data = {"id": "_id", "group": "_group"}
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet", wait=True)
        old = system.site.lake
        old.refresh()
        new = open_lake(tmp_path, read=False, data=data, sisa={"shards": 3}, storage_url=str(tmp_path / "successor"))
        manifest = inherit(new, Predecessor("s", "n", 2, old, {}, 0), system.guard)
        assert (manifest.id_type, manifest.group_type) == ("int16", "string")
        before, after = ({row["=_id"]: (row["=_group"], row["x0"], row["_content"]) for row in lake_rows(lake)}
                         for lake in (old, new))  # fmt: skip
        assert before == after
        assert len(after) == 60
        assert not Lookup(new).find([("group", made["_group"][30].as_py()), ("id", 3)])[1]
