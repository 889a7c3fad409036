"""Tables written so that every value stands in its row: dictionaries at any depth, runs, extensions, metadata."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.runtime.purge.table_rewrite import unused_values
from hybridmu.store.storage.parquet import TableWriter, values_apart
from hybridmu.store.storage.parquet_pages import ParquetParts
from hybridmu.store.storage.plain_tables import plain, plain_schema, plain_type

SECRET = "value-of-no-row"
WORDS = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["a", "b", SECRET]))
KEYS = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1]), pa.array(["k", "l", SECRET]))
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([n]) * 16 for n in range(4)], pa.binary(16)))
TEXT = pa.string()
KINDS = {
    "dictionary": (WORDS, TEXT),
    "struct": (pa.StructArray.from_arrays([WORDS], ["x"], mask=pa.array([False, True, False, False])), None),
    "list": (pa.ListArray.from_arrays(pa.array([0, 1, None, 4]), WORDS), pa.list_(TEXT)),
    "large list": (pa.LargeListArray.from_arrays([0, 1, 1, 4], WORDS), pa.large_list(TEXT)),
    "fixed list": (pa.FixedSizeListArray.from_arrays(WORDS, 2), pa.list_(TEXT, 2)),
    "list view": (pa.ListViewArray.from_arrays([1, 0], [3, 2], WORDS), pa.list_view(TEXT)),
    "map": (pa.MapArray.from_arrays([0, 1, 4], KEYS, WORDS), pa.map_(TEXT, TEXT)),
    "runs": (pc.run_end_encode(pa.array(["a", "a", "b", None])), TEXT),
    "runs of words": (pa.RunEndEncodedArray.from_arrays([2, 4], WORDS.slice(0, 2)), TEXT),
    "runs in a struct": (pa.StructArray.from_arrays([pc.run_end_encode(pa.array(["a", "a"]))], ["x"]), None),
    "words of words": (pa.DictionaryArray.from_arrays([0, 1], WORDS), TEXT),
    "words of structs": (pa.DictionaryArray.from_arrays([0, 1], pa.StructArray.from_arrays([WORDS], ["x"])), None),
    "words of lists": (pa.DictionaryArray.from_arrays([0], pa.ListArray.from_arrays([0, 4], WORDS)), pa.list_(TEXT)),
    "lists of lists": (pa.ListArray.from_arrays([0, 2], pa.ListArray.from_arrays([0, 1, 4], WORDS)), None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0, 1])
def test_rows_stay_and_dictionaries_go_at_any_depth(tmp_path, kind, start):
    array, wanted = KINDS[kind]
    array = array.slice(start)
    made = plain(pa.table({"c": array}))
    made.validate(full=True)
    assert made["c"].to_pylist() == array.to_pylist()
    assert wanted in {None, made["c"].type}
    assert "dictionary" not in str(made.schema)
    assert "run_end" not in str(made.schema)
    with TableWriter(tmp_path / "t", pa.table({"c": array}).schema) as writer:
        writer.write(pa.table({"c": array}))
    data = (tmp_path / "t").read_bytes()
    parts = ParquetParts(io.BytesIO(data))
    pages = b"".join(page.data for chunk in parts.chunks() for page in parts.pages(chunk))
    assert SECRET.encode() not in data + pages
    assert list(unused_values(io.BytesIO(data))) == []
    assert pq.read_table(tmp_path / "t")["c"].to_pylist() == array.to_pylist()


def test_extension_types_are_their_storage():
    made = plain(pa.table({"c": UUIDS, "d": pa.ListArray.from_arrays([0, 1, 2, 3, 4], UUIDS)}))
    assert made.schema.types == [pa.binary(16), pa.list_(pa.binary(16))]
    assert made["c"].to_pylist() == [bytes([n]) * 16 for n in range(4)]


def test_only_our_own_metadata_stays():
    packed = pa.field("p", pa.binary(8), metadata={"hybridmu.list_of": "uint8", "unit": "person-1"})
    forged = pa.field("q", pa.binary(8), metadata={"hybridmu.list_of": "person-1"})
    inner = pa.field("s", pa.struct([pa.field("x", TEXT, metadata={"note": "person-1"})]))
    schema = pa.schema([packed, forged, inner], metadata={"pandas": '{"index_columns": ["person-1"]}'})
    made = plain_schema(schema)
    assert (made.metadata, made.field("p").metadata) == (None, {b"hybridmu.list_of": b"uint8"})
    assert made.field("q").metadata is None
    assert made.field("s").type.field(0).metadata is None


def test_a_footer_says_whether_values_stand_apart(tmp_path):
    def apart(table: pa.Table) -> str | None:
        pq.write_table(table, tmp_path / "t")
        return values_apart(pq.read_schema(tmp_path / "t"))

    rows = pa.table({"c": ["a", "b"]})
    with TableWriter(tmp_path / "ours", rows.schema) as writer:
        writer.write(rows)
    ours = pq.read_schema(tmp_path / "ours")
    assert values_apart(ours) is None
    assert apart(rows) == "other metadata than this release writes"
    assert apart(pa.table({"c": WORDS}).replace_schema_metadata(ours.metadata)) is not None
    field = pa.field("c", TEXT, metadata={"note": "person-1"})
    assert apart(rows.cast(pa.schema([field], metadata=ours.metadata))) is not None
    assert apart(rows.replace_schema_metadata({**ours.metadata, b"pandas": b"{}"})) is not None


def test_a_dictionary_with_more_than_the_rows_hold_is_noticed():
    every = {
        "top": WORDS,
        "deep": pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 2, 3, 4], WORDS)], ["x"]),
    }
    sink = io.BytesIO()
    pq.write_table(
        pa.table(
            {**every, "fine": ["a", "b", "a", "b"], "keys": [[("k", "v")]] * 4},
            schema=pa.schema([
                *((name, array.type) for name, array in every.items()),
                ("fine", TEXT),
                ("keys", pa.map_(TEXT, TEXT)),
            ]),
        ),
        sink,
    )
    assert list(unused_values(sink)) == ["top", "deep.x.list.element"]


_LEAVES = st.sampled_from([pa.int8(), pa.string(), pa.float64(), pa.binary(), pa.timestamp("us", "UTC"), pa.uuid()])


def _nested(inner):
    return st.one_of(
        inner.map(pa.list_),
        inner.map(lambda type_: pa.list_(type_, 2)),
        inner.map(lambda type_: pa.struct([("x", type_)])),
        inner.map(lambda type_: pa.map_(pa.string(), type_)),
        inner.map(lambda type_: pa.dictionary(pa.int8(), type_)),
        inner.map(lambda type_: pa.run_end_encoded(pa.int32(), type_)),
    )


@given(st.recursive(_LEAVES, _nested, max_leaves=4))
def test_no_type_keeps_values_apart(type_):
    made = plain_type(type_)
    assert not any(word in str(made) for word in ("dictionary", "run_end", "extension"))
    assert plain_type(made) == made
