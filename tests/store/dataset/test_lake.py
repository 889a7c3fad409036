from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from hybridmu.core.kernel.partition import digest
from hybridmu.errors import DataError, HybridMUError
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.ledger import Ledger
from tests.support import lake_rows, open_lake, replaced, table, write

GROUPED = {"data": {"group": "person"}}
TEST = "test.parquet"


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.sampled
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
        fresh, unknown = Lookup(lake).find([("id", number)])
        assert unknown == []
        assert {(k.shard) for k in fresh} == {where["train", number][0], where["test", number][0]}
        assert sorted(row.training for k in fresh for row in k.rows) == [False, True]
        gone = {k.shard: {(k.kind, k.key)} for k in fresh}
        left = [
            i for s in ("train", "test") for shard in range(4) for i in lake.rows(s, shard, gone.get(shard, set())).ids
        ]
        assert len(left) == 158


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
@pytest.mark.slow
def test_keys_are_found_and_assessed_as_brute_force_does(people, tmp_path_factory, before, asked):
    lake, rows = people
    column = {"id": "id", "group": "person"}
    ledger = Ledger(connect(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/l.sqlite3", create=True))
    if earlier := Lookup(lake).find(before)[0]:
        ledger.accept(earlier)
    dead = {id(row) for row in rows if any(row[column[kind]] == value for kind, value in before)}
    found, missing = Lookup(lake).find(asked)
    expected: dict[tuple, Counter] = {}
    unknown = []
    for kind, value in dict.fromkeys(asked):
        mine = [row for row in rows if row[column[kind]] == value]
        unknown += [] if mine else [str(value)]
        for row in mine:
            place = (kind, digest(lake.key, kind, value), row["shard"], row["_slice"])
            expected.setdefault(place, Counter())[row["_id"], row["split"] == "train"] += 1
    assert [key.text for key in missing] == unknown  # as the caller wrote them, in the caller's order
    assert {(k.kind, k.key, k.shard, k.slice): Counter((r.id, r.training) for r in k.rows) for k in found} == expected
    assessed = ledger.assess(found)
    alive = {
        (kind, digest(lake.key, kind, value), row["shard"], row["_slice"])
        for kind, value in asked for row in rows if row[column[kind]] == value and id(row) not in dead
    }  # fmt: skip
    assert {(k.kind, k.key, k.shard, k.slice) for k, _ in assessed.fresh} == alive
    everywhere = {place[:2] for place in alive}
    gone = {place for place in expected if place[:2] not in everywhere}
    assert {(k.kind, k.key, k.shard, k.slice) for k in assessed.known} == gone
    killed = {
        id(row) for row in rows
        if row["split"] == "train" and id(row) not in dead and any(row[column[k]] == v for k, v in asked)
    }  # fmt: skip
    assert sum(count for _, count in assessed.fresh) == len(killed)


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
                                              ("1_0", None), ("+7", None), ("7.0", None), ("x", None),
                                              ("-0", None), ("٧", None), ("", None), (2**63, None)])  # fmt: skip
def test_an_integer_id_has_one_text_form(tmp_path, asked, found):
    write(tmp_path, table(12))
    lake = open_lake(tmp_path)
    fresh, unknown = Lookup(lake).find([("id", asked)])
    assert [k.key for k in fresh] == ([digest(lake.key, "id", found)] if found is not None else [])
    assert [key.text for key in unknown] == ([] if found is not None else [str(asked)])


@pytest.mark.parametrize(
    "asked", [7.0, True, None, b"7", np.float64(7), (7,), 2**64, -(2**63) - 1, "\ud800", "x" * 65_537]
)
def test_what_no_table_holds_is_no_key(tmp_path, asked):
    write(tmp_path, table(12))
    with pytest.raises(DataError, match="an id or group"):
        Lookup(open_lake(tmp_path)).find([("id", asked)])


@pytest.mark.parametrize("dictionary", [False, True])
def test_text_ids_and_groups_that_look_like_numbers(tmp_path, dictionary):
    made = table(40, groups=5)
    made = replaced(made, "id", made["id"].cast(pa.string()))
    made = replaced(made, "person", pc.replace_substring(made["person"], "p", "0"))
    if dictionary:  # what pandas writes for a categorical
        made = replaced(
            replaced(made, "id", made["id"].dictionary_encode()), "person", made["person"].dictionary_encode()
        )
    write(tmp_path, made, row_group_size=9)
    lake = open_lake(tmp_path, **GROUPED)
    for asked in ("7", 7):
        assert [len(k.rows) for k in Lookup(lake).find([("id", asked)])[0]] == [1]
    rows = made["person"].to_pylist().count("03")
    assert [len(k.rows) for k in Lookup(lake).find([("group", "03")])[0]] == [rows]
    assert Lookup(lake).find([("group", "3")])[1][0].text == "3"


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
        Lookup(open_lake(tmp_path)).find([("group", "p1")])


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_live_training_twins_are_counted_over_all_shards(tmp_path, fraction):
    made = table(40, groups=6)
    rows = pa.concat_tables([made, *[made.slice(0, 10)] * 2, replaced(made.slice(10, 5), "label", pa.array([9] * 5))])
    rows = replaced(rows, "id", pa.array(range(len(rows))))
    rows = replaced(rows, "person", pa.array([f"q{i}" for i in range(len(rows))]))
    write(tmp_path, rows)
    lake = open_lake(tmp_path, data={"group": "person", "validation_fraction": fraction})
    content = {row["id"]: (*(row[f"x{j}"] for j in range(4)), row["label"]) for row in lake_rows(lake)}
    assert (len(content) == len(rows)) == (fraction == 0)
    for gone, before in [*(([n], []) for n in range(65)), ([0, 40], []), ([0, 40, 50], []), ([3, 12], [43])]:
        keys = Lookup(lake).find([("id", i) for i in gone])[0]
        revoked: dict[int, set] = {}
        for one in Lookup(lake).find([("id", i) for i in gone + before])[0]:
            revoked.setdefault(one.shard, set()).add((one.kind, one.key))
        going = {content[i] for i in gone if i in content}
        live = set(content) - set(gone) - set(before)
        assert lake.twins(keys, revoked) == sum(content[i] in going for i in live), (gone, before)
