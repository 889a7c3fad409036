"""Targets at the door: every type becomes float32 by one rounding, and what is no number is refused with its place."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.kernel.table_encoder import Column, Encoder
from hybridmu.core.targets import TargetEncoder, empty_outcomes, encoder_of, learned, outcome_columns
from hybridmu.errors import DataError

ENCODER = TargetEncoder.of((Column("a", "number", 1),), "y")
NUMBERS = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False, allow_infinity=False),
    pa.float64(): st.floats(-3.4e38, 3.4e38),
}


@given(st.sampled_from(list(NUMBERS)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(NUMBERS[kind]))))
@settings(max_examples=150, deadline=None)
def test_a_number_is_rounded_once(given_):
    kind, values = given_
    column = pa.chunked_array([pa.array(values[:2], kind), pa.array(values[2:], kind)])
    found = ENCODER.encode_labels(pa.table({"y": column}))
    expected = np.array(values, dtype=kind.to_pandas_dtype()).astype(np.float32)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [(None, "null"), (float("nan"), "nan"), (float("inf"), "inf"), (-1e300, "too large for float32")],
)
def test_what_is_no_number_is_refused_with_row_and_column(wrong, says):
    table = pa.table({"y": pa.array([1.0, 2.0, wrong, 3.0, wrong], pa.float64())})
    with pytest.raises(DataError) as error:
        ENCODER.check(table, 1000, "train.parquet")
    assert "target column 'y'" in str(error.value)
    assert "row 1,003 of train.parquet, and 1 more" in str(error.value)
    assert says in str(error.value)
    ENCODER.check(table, taken=lambda: np.array([True, True, False, True, False]))


@pytest.mark.parametrize("type_", [pa.string(), pa.bool_(), pa.decimal128(5), pa.timestamp("s"), pa.list_(pa.int8())])
def test_a_column_of_another_type_is_no_target(type_):
    with pytest.raises(DataError, match="can't be a target"):
        ENCODER.encode_labels(pa.table({"y": pa.nulls(2, type_)}))
    with pytest.raises(DataError, match="is missing"):
        ENCODER.encode_labels(pa.table({"a": [1]}))


def test_the_schema_survives_json_and_says_what_is_learned():
    again = encoder_of(json.loads(json.dumps(ENCODER.to_json())))
    assert again == ENCODER
    assert isinstance(again, TargetEncoder)
    classes = Encoder(ENCODER.columns, "y", ("a", "b"))
    assert type(encoder_of(json.loads(json.dumps(classes.to_json())))) is Encoder
    assert (empty_outcomes(again, 2).dtype, empty_outcomes(classes, 2).dtype) == (np.float32, np.int64)


BOTH = TargetEncoder.of(ENCODER.columns, "y", "z")


def test_several_targets_stand_side_by_side():
    table = pa.table({"z": pa.array([1, 2, 3], pa.int32()), "y": [0.5, 1.5, 2.5]})
    found = BOTH.encode_labels(table)
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]]
    assert found[:, 0].tobytes() == ENCODER.encode_labels(table).tobytes()
    assert empty_outcomes(BOTH, 3).shape == (3, 2)
    assert empty_outcomes(ENCODER, 3).shape == (3,)


@pytest.mark.parametrize("column", ["y", "z"])
def test_what_is_no_number_in_any_of_them_is_refused_with_row_and_column(column):
    columns = {"y": [1.0, 2.0, 3.0], "z": [1.0, 2.0, 3.0]} | {column: [1.0, None, float("nan")]}
    with pytest.raises(DataError) as error:
        BOTH.check(pa.table(columns), 10, "train.parquet")
    assert f"target column {column!r}" in str(error.value)
    assert "row 12 of train.parquet, and 1 more" in str(error.value)
    BOTH.check(pa.table(columns), taken=lambda: np.array([True, False, False]))
    with pytest.raises(DataError, match=f"target column {column!r} is missing"):
        BOTH.encode_labels(pa.table(columns).drop_columns([column]))
    with pytest.raises(DataError, match=f"column {column!r} can't be a target"):
        BOTH.encode_labels(pa.table({**columns, column: ["a", "b", "c"]}))


def test_truth_values_are_told_how_they_become_numbers():
    with pytest.raises(DataError, match="int8, true and false are the numbers 1 and 0"):
        BOTH.encode_labels(pa.table({"y": [1.0], "z": [True]}))


def test_the_schema_of_one_target_is_what_it_was_and_that_of_several_survives_json():
    assert set(ENCODER.to_json()) == {"columns", "label", "classes"}
    again = encoder_of(json.loads(json.dumps(BOTH.to_json())))
    assert again == BOTH
    assert outcome_columns(again) == again.targets == ("y", "z")
    assert outcome_columns(Encoder(ENCODER.columns, "y", ("a", "b"))) == ("y",)
    assert learned(again) == {"target": ["y", "z"]}
