from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.table_encoder import Encoder, infer_classes, label_set, make_columns
from hybridmu.errors import DataError


def encoder(table: pa.Table, classes=(0, 1), **declared) -> Encoder:
    options = {"fills": {}, "categories": {}, "hash_buckets": {}, "scale": {}} | declared
    features = [name for name in table.column_names if name != "y"]
    return Encoder(make_columns(table.schema, features, **options), "y", tuple(classes))


def encoded(values: pa.Array | list, **declared) -> list[list[float]]:
    table = pa.table({"c": values})
    return encoder(table, **{name: {"c": value} for name, value in declared.items()}).encode(table).tolist()


def refused(values: pa.Array | list, **declared) -> str:
    with pytest.raises(DataError) as error:
        encoded(values, **declared)
    return str(error.value)


def bucket(text: str, width: int) -> list[float]:
    at = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % width
    return [float(i == at) for i in range(width)]


def lists(values: list, type_: pa.DataType, width: int) -> pa.Array:
    return pa.array(values, pa.list_(type_, width))


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        (pa.array([1, -2, 3], pa.int8()), {}, [[1], [-2], [3]]),
        (pa.array([1, 2], pa.uint64()), {"scale": 0.5}, [[0.5], [1]]),
        (pa.array([0.25, 1e30], pa.float64()), {}, [[0.25], [np.float32(1e30)]]),
        (pa.array(np.array([1.5, 2], np.float16)), {}, [[1.5], [2]]),
        (pa.array([3e38, 3e38, 3e38], pa.float32()), {}, [[np.float32(3e38)]] * 3),
        ([True, False], {}, [[1], [0]]),
        (lists([[0, 255], [51, 102]], pa.uint8(), 2), {"scale": 0.5}, [[0, 127.5], [25.5, 51]]),
        (lists([[0.5, -1.0]], pa.float64(), 2), {}, [[0.5, -1]]),
        (["b", "a", "b"], {"categories": ("a", "b", "c")}, [[0, 1, 0], [1, 0, 0], [0, 1, 0]]),
        (pa.array(["b", "a"], pa.large_string()), {"categories": ("a", "b")}, [[0, 1], [1, 0]]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), {"categories": ("a", "b")}, [[0, 1], [1, 0], [0, 1]]),
        (pa.array([3, 4, 3]).dictionary_encode(), {}, [[3], [4], [3]]),
        (["x", "y", ""], {"hash_buckets": 5}, [bucket("x", 5), bucket("y", 5), bucket("", 5)]),
        (["x"], {}, [bucket("x", 64)]),
        (pa.array([2, None, 4]), {"fills": 7, "scale": 0.5}, [[1, 0], [3.5, 1], [2, 0]]),
        (pa.array([0.5, None]), {"fills": 0}, [[0.5, 0], [0, 1]]),
        (pa.array([2, 3]), {"fills": 7}, [[2, 0], [3, 0]]),
        (pa.array([None, None], pa.float32()), {"fills": -1.5}, [[-1.5, 1], [-1.5, 1]]),
        (pa.array([True, None, False]), {"fills": True}, [[1, 0], [1, 1], [0, 0]]),
        (["a", None], {"fills": "b", "categories": ("a", "b")}, [[1, 0, 0], [0, 1, 1]]),
        (["a", None], {"fills": "z", "hash_buckets": 3}, [[*bucket("a", 3), 0], [*bucket("z", 3), 1]]),
        (lists([[1, 2], None], pa.int16(), 2), {"fills": 9}, [[1, 2, 0], [9, 9, 1]]),
        (lists([[1, 2], None], pa.float32(), 2), {"fills": 0.5, "scale": 2}, [[2, 4, 0], [1, 1, 1]]),
        (lists([[1, 2], None], pa.int16(), 2), {"fills": 0.5}, [[1, 2, 0], [0.5, 0.5, 1]]),
        (pa.array([None, "a"]).dictionary_encode(), {"fills": "a", "categories": ("a",)}, [[1, 1], [1, 0]]),
    ],
)
def test_every_kind(values, declared, expected):
    assert encoded(values, **declared) == [[float(v) for v in row] for row in expected]


@pytest.mark.parametrize(
    ("values", "declared", "says"),
    [
        ([1.0, float("nan")], {}, "has 1 row(s) with NaN or infinity"),
        ([float("inf"), float("-inf"), 1], {}, "has 2 row(s) with NaN or infinity"),
        (lists([[1, float("nan")], [1, 2]], pa.float32(), 2), {}, "has 1 row(s) with NaN"),
        ([1, None, None], {}, "has 2 null(s) and no fill"),
        (["a", None], {"categories": ("a",)}, "has 1 null(s) and no fill"),
        (lists([[1, 2], None], pa.float32(), 2), {}, "has 1 null(s) and no fill"),
        (lists([[1, None]], pa.float32(), 2), {}, "nulls inside its lists"),
        (lists([[1, None]], pa.float32(), 2), {"fills": 0}, "nulls inside its lists"),
        (["a", "z", "q"], {"categories": ("a", "b")}, "has 2 value(s) outside its declared categories"),
        (["a", None], {"fills": "z", "categories": ("a",)}, "one of ['a']"),
        (pa.array([[1], [2]]), {}, "can't be a feature"),
        (lists([["a"]], pa.string(), 1), {}, "can't be a feature"),
        ([{"a": 1}], {}, "can't be a feature"),
        ([b"x"], {}, "can't be a feature"),
        (pa.array([b"0" * 16], pa.uuid()), {}, "Arrow extension type"),
        ([1, None], {"fills": "many"}, "column 'c'"),
        ([1, None], {"fills": float("nan")}, "a finite number"),
        ([1, None], {"fills": True}, "a finite number"),
        ([True, None], {"fills": 0}, "true or false"),
        (["a", None], {"fills": 0}, "a string"),
        (lists([[1, 2], None], pa.float32(), 2), {"fills": "many"}, "column 'c'"),
    ],
)
def test_refusals(values, declared, says):
    message = refused(values, **declared)
    assert says in message
    assert "column 'c'" in message


@pytest.mark.parametrize("last", [7, None])
@pytest.mark.parametrize("types", [(pa.uint8(), pa.int64(), pa.float64()), (pa.float32(), pa.float64())], ids=str)
def test_scaled_lists_have_the_same_bits_whatever_their_type(types, last):
    unit = 1 if pa.types.is_integer(types[0]) else 0.1
    values = [*([v * unit] for v in range(256)), last and [last * unit]]
    expected = [[float(np.float32(v * unit) * np.float32(1 / 255))] for v in (*range(256), 7)]
    for type_ in types:
        found = encoded(lists(values, type_, 1), scale=1 / 255, fills=7 * unit)
        assert [row[:1] for row in found] == expected


def test_a_table_of_another_type_or_without_the_column():
    table = pa.table({"a": [1.0], "s": ["x"], "v": lists([[1, 2]], pa.float32(), 2)})
    made = encoder(table)
    for wrong in (
        {"a": ["word"]},
        {"v": lists([[1, 2, 3]], pa.float32(), 3)},
        {"v": [1.0]},
        {"s": lists([[1]], pa.int8(), 1)},
        {"a": pa.array([b"0" * 16], pa.uuid())},
    ):
        name = next(iter(wrong))
        with pytest.raises(DataError, match=f"'{name}'|extension type"):
            made.encode(pa.table({column: wrong.get(column, table[column]) for column in table.column_names}))
    with pytest.raises(DataError, match="'s' is missing"):
        made.encode(table.drop(["s"]))


def test_declarations_must_name_features():
    table = pa.table({"a": [1.0], "y": [0]})
    with pytest.raises(DataError, match=r"not features: \['b', 'y'\]"):
        make_columns(table.schema, ["a"], fills={"b": 0}, categories={}, hash_buckets={}, scale={"y": 2})
    with pytest.raises(DataError, match="'zz' is missing"):
        make_columns(table.schema, ["a", "zz"], fills={}, categories={}, hash_buckets={}, scale={})


MIXED = pa.schema([
    ("n", pa.float64()), ("b", pa.bool_()), ("l", pa.list_(pa.int16(), 2)), ("s", pa.string()), ("c", pa.string())
])  # fmt: skip
ROW = st.fixed_dictionaries({
    "n": st.none() | st.floats(-1e6, 1e6),
    "b": st.none() | st.booleans(),
    "l": st.none() | st.lists(st.integers(-99, 99), min_size=2, max_size=2),
    "s": st.none() | st.text(max_size=3),
    "c": st.none() | st.sampled_from("ab"),
})


@given(st.lists(ROW, min_size=1, max_size=12), st.data())
def test_a_row_is_encoded_by_itself_alone(rows, data):
    table = pa.Table.from_pylist(rows, schema=MIXED)
    made = encoder(
        table, fills={"n": 1.5, "b": False, "l": 3, "s": "?", "c": "a"}, categories={"c": ("a", "b")},
        hash_buckets={"s": 4}, scale={"n": 0.1, "l": 2.0},
    )  # fmt: skip
    assert made.features == 2 + 2 + 3 + 5 + 3
    whole = made.encode(table)
    assert (whole.shape, whole.dtype, whole.flags.c_contiguous) == ((len(rows), 15), np.float32, True)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    np.testing.assert_array_equal(made.encode(table.take(pa.array(chosen, pa.int64()))), whole[chosen])
    start = data.draw(st.integers(0, len(rows)))
    np.testing.assert_array_equal(made.encode(table.slice(start)), whole[start:])  # offsets into shared buffers
    pieces = pa.concat_tables([table.slice(start), table.slice(0, start)])
    np.testing.assert_array_equal(made.encode(pieces), np.concatenate([whole[start:], whole[:start]]))


def test_encoding_into_a_given_array():
    table = pa.table({"n": [1.0, None], "s": ["x", "y"]})
    made = encoder(table, fills={"n": 0})
    out = np.full((2, made.features), np.nan, dtype=np.float32)
    assert made.encode(table, out) is out
    np.testing.assert_array_equal(out, made.encode(table))


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([3, 1, 3], (1, 3), [1, 0, 1]),
        ([3, 1], (3, 2, 1), [0, 2]),
        (pa.array([1, 0], pa.uint8()), (0, 1), [1, 0]),
        ([True, False], (0, 1), [1, 0]),
        (["no", "yes"], ("yes", "no"), [1, 0]),
        (pa.array(["no", "yes"]).dictionary_encode(), ("no", "yes"), [0, 1]),
        (pa.array(["b"], pa.large_string()), ("a", "b"), [1]),
    ],
)
def test_labels(labels, classes, expected):
    table = pa.table({"y": labels})
    numbers = Encoder((), "y", classes).encode_labels(table)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [
        ([0, 5, 6], (0, 1), "2 label(s) in column 'y' are outside the classes"),
        ([0, None], (0, 1), "1 label(s) in column 'y' are outside"),
        ([0.5], (0, 1), "column 'y' can't be a label"),
        (["1"], (0, 1), "label"),
        ([1], ("a", "b"), "label"),
    ],
)
def test_labels_outside_the_classes(labels, classes, says):
    with pytest.raises(DataError) as error:
        Encoder((), "y", classes).encode_labels(pa.table({"y": labels}))
    assert says in str(error.value)


def test_classes_are_inferred_in_order():
    assert infer_classes([10, 9, 10, -1]) == (-1, 9, 10)
    assert infer_classes(["b", "a", "b"]) == ("a", "b")
    assert label_set(pa.chunked_array([[True], [False, True]])) == {0, 1}
    with pytest.raises(DataError, match="nulls"):
        label_set(pa.chunked_array([["a", None]]))


def test_json_round_trip():
    table = pa.table({"n": [1.0, None], "c": ["a", "b"], "y": ["p", "q"]})
    made = encoder(table, ("p", "q"), fills={"n": 2}, categories={"c": ("a", "b")}, hash_buckets={}, scale={"n": 3.0})
    again = Encoder.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    np.testing.assert_array_equal(again.encode(table), made.encode(table))


def test_no_rows_and_no_features():
    table = pa.table({"n": pa.array([], pa.float32()), "s": pa.array([], pa.string())})
    assert encoder(table).encode(table).shape == (0, 65)
    assert Encoder((), "y", (0, 1)).encode(pa.table({"n": [1, 2]})).shape == (2, 0)
