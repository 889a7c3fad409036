"""Columns encoded many at a time: the bits of the plain definition, whatever the types, chunks and nulls."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.kernel.column_writers import write
from hybridmu.core.kernel.table_encoder import Column, Encoder, Encoding
from hybridmu.errors import DataError
from hybridmu.store.dataset.source_rows import content_digests

WORDS = ["", "a", "b", "é", "many words"]
NUMBERS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
NUMBERS += [pa.float16(), pa.float32(), pa.float64()]


def plain(encoder: Encoder, table: pa.Table) -> np.ndarray:
    """The definition: one value after the other, in Python's own numbers."""
    out = np.zeros((table.num_rows, encoder.features), dtype=np.float32)
    at = 0
    for column in encoder.columns:
        width = column.width - (column.fill is not None)
        for row, value in enumerate(table.column(column.name).to_pylist()):
            if column.fill is not None:
                out[row, at + width] = value is None
                value = column.fill if value is None else value
            if column.kind == "list":
                cells = value if isinstance(value, list) else [value] * width
                singles = np.array([np.array(cell).astype(np.float32) for cell in cells])
                out[row, at : at + width] = singles * np.float32(column.scale)
            elif column.kind == "category":
                out[row, at + column.categories.index(value)] = 1
            elif column.kind == "hash":
                digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
                out[row, at + int.from_bytes(digest, "little") % width] = 1
            else:
                out[row, at] = np.float32(float(value) * column.scale)
        at += column.width
    return out


@st.composite
def column(draw, name: str, rows: int) -> tuple[Column, pa.ChunkedArray]:
    kind = draw(st.sampled_from(["number", "number", "bool", "list", "category", "hash"]))
    scale = draw(st.sampled_from([1.0, 1.0, 0.1, 1 / 255, -3.0]))
    fill, width, categories = None, 1, ()
    if kind in {"number", "list"}:
        type_ = draw(st.sampled_from(NUMBERS))
        if pa.types.is_integer(type_):
            signed, bits = pa.types.is_signed_integer(type_), type_.bit_width
            cells = st.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1)
        else:
            single = np.dtype(type_.to_pandas_dtype()).type
            most = 60_000 if type_ == pa.float16() else 1e30
            cells = st.floats(-most, most) | st.sampled_from([0.0, -0.0, 1e-40])
            cells = cells.map(lambda cell: float(single(cell)))
        fill = draw(st.none() | st.sampled_from([7, -0.5, 0]))
        if kind == "list":
            width = draw(st.integers(1, 3))
            cells, type_ = st.lists(cells, min_size=width, max_size=width), pa.list_(type_, width)
    elif kind == "bool":
        type_, cells, fill = pa.bool_(), st.booleans(), draw(st.none() | st.booleans())
    else:
        type_ = draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]))
        cells, fill = st.sampled_from(WORDS), draw(st.none() | st.sampled_from(WORDS))
        width, categories = (len(WORDS), tuple(WORDS)) if kind == "category" else (draw(st.integers(1, 4)), ())
    made = [draw(cells if fill is None else st.none() | cells) for _ in range(rows)]
    cut = draw(st.integers(0, rows))
    padding = made[:1] * 3  # so that an array does not begin where its buffers do
    chunks = [pa.array(padding + part, type_)[len(padding) :] for part in (made[:cut], made[cut:])]
    scale = scale if kind != "hash" else 1.0
    return Column(name, kind, width + (fill is not None), categories, fill, scale), pa.chunked_array(chunks, type_)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_bits_are_those_of_the_definition(data):
    rows = data.draw(st.integers(1, 12))
    made = [data.draw(column(f"c{number}", rows)) for number in range(data.draw(st.integers(1, 6)))]
    order = data.draw(st.permutations(range(len(made))))
    table = pa.table({made[number][0].name: made[number][1] for number in order})
    encoder = Encoder(tuple(column for column, _ in made), "y", (0, 1))
    expected = plain(encoder, table)
    assert encoder.encode(table).tobytes() == expected.tobytes()
    # Into a part of something larger, and by a pass that knows texts from before.
    around = np.full((rows, encoder.features + 2), 9, dtype=np.float32)
    one = Encoding(encoder)
    for _ in range(2):
        one.encode(table, around[:, 1:-1])
        assert np.ascontiguousarray(around[:, 1:-1]).tobytes() == expected.tobytes()
    assert (around[:, [0, -1]] == 9).all()


def test_more_rows_than_are_written_at_once():
    rows = 5_000
    random = np.random.default_rng(0)
    words = random.choice([*WORDS, None], rows).tolist()
    table = pa.table({
        "n": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.2),
        "b": random.random(rows) < 0.5,
        "s": pa.chunked_array([pa.array(words[:4_000]), pa.array(words[4_000:])]),
        "d": pa.array(words).dictionary_encode(),
    })
    columns = (
        Column("n", "number", 2, fill=0.5, scale=3.0),
        Column("b", "bool", 1),
        Column("s", "hash", 4, fill="?"),
        Column("d", "category", len(WORDS) + 1, tuple(WORDS), fill="b"),
    )
    encoder = Encoder(columns, "y", (0, 1))
    assert encoder.encode(table).tobytes() == plain(encoder, table).tobytes()


def test_many_distinct_texts_are_hashed_and_not_kept(monkeypatch):
    monkeypatch.setattr("hybridmu.core.kernel.column_writers._REMEMBERED", 10)
    encoder = Encoder((Column("s", "hash", 7),), "y", (0, 1))
    one = Encoding(encoder)
    for part in range(5):
        table = pa.table({"s": [f"{part}-{number}" for number in range(20)]})
        assert one.encode(table).tobytes() == plain(encoder, table).tobytes()
        assert len(one._hashes) <= 30


def test_values_of_a_dictionary_that_no_row_has_are_nobodys():
    made = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["a", "gone"]))
    encoder = Encoder((Column("s", "category", 1, ("a",)),), "y", (0, 1))
    assert encoder.encode(pa.table({"s": made})).tolist() == [[1], [1]]


@pytest.mark.parametrize("bad", [0, 2_500, 4_999])
def test_what_is_not_finite_is_found_wherever_it_is(bad):
    values = np.zeros(5_000)
    values[bad] = np.nan
    table = pa.table({"a": np.zeros(5_000), "b": values, "s": ["x"] * 5_000, "c": values})
    columns = (Column("a", "number", 1), Column("b", "number", 1), Column("s", "hash", 2), Column("c", "number", 1))
    with pytest.raises(DataError, match=r"'b' has 1 row\(s\) with NaN"):
        Encoder(columns, "y", (0, 1)).encode(table)


def test_text_that_is_no_unicode_is_refused_by_name():
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(DataError, match="column 's'"):
        Encoder((Column("s", "hash", 2),), "y", (0, 1)).encode(pa.table({"s": text}))


def test_the_digest_of_a_row_is_that_of_its_features_and_label():
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    y = np.array([0, 1, 2, -1, 2**40])
    expected = b"".join(
        hashlib.blake2b(row.tobytes() + int(label).to_bytes(8, "little", signed=True), digest_size=16).digest()
        for row, label in zip(x, y, strict=True)
    )
    assert content_digests(x, y) == expected
    assert content_digests(x[::2], y[::2]) == b"".join(expected[16 * row : 16 * row + 16] for row in (0, 2, 4))
    assert content_digests(x[:0], y[:0]) == b""
    assert len(content_digests(x[:, :0], y)) == 5 * 16


@pytest.mark.parametrize(("kind", "width"), [("number", 1), ("bool", 1), ("list", 2), ("category", 2), ("hash", 2)])
def test_the_time_grows_with_the_columns_alone(kind, width):
    """A ratio in one run: looking every column up among all others would make it more than a hundred times as much."""
    value = {"bool": True, "list": [1.0, 2.0], "category": "a", "hash": "x"}.get(kind, 1.5)

    def seconds(count: int) -> float:
        columns = tuple(Column(f"f{n}", kind, width, ("a", "b") if kind == "category" else ()) for n in range(count))
        values = pa.array([value] * 3, pa.list_(pa.float32(), 2) if kind == "list" else None)
        encoder, table = Encoder(columns, "y", (0, 1)), pa.table({column.name: values for column in columns})
        took = []
        for _ in range(3):
            started = time.process_time()
            encoder.encode(table)
            took.append(time.process_time() - started)
        return min(took)

    assert seconds(4_000) < 100 * seconds(200)


def test_usual_columns_are_not_left_to_the_slow_way(monkeypatch):
    """Numbers of every width, booleans and texts, with and without nulls: the slow way would raise here."""
    monkeypatch.setattr("hybridmu.core.kernel.table_encoder._encode_column", None)
    types = [*NUMBERS, pa.bool_(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    for type_ in types:
        text = not (pa.types.is_primitive(type_))
        kind, value = ("hash", "x") if text else ("bool" if pa.types.is_boolean(type_) else "number", 1)
        value = bool(value) if kind == "bool" else float(value) if pa.types.is_floating(type_) else value
        for values, fill in (([value], None), ([value, None], value)):
            made = Column("c", kind, 1 + (fill is not None), fill=fill)
            Encoder((made,), "y", (0, 1)).encode(pa.table({"c": pa.array(values, type_)}))
    for values, fill in (([[1, 2]], None), ([[1, 2], None], 7)):
        made = Column("c", "list", 2 + (fill is not None), fill=fill)
        Encoder((made,), "y", (0, 1)).encode(pa.table({"c": pa.array(values, pa.list_(pa.uint8(), 2))}))
    assert write(pa.table({}), [], np.empty((0, 0), dtype=np.float32), {}) == []
