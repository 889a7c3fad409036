"""Rows of callers: the bits that training saw, or a refusal to the one caller whom it concerns."""

from __future__ import annotations

import math
import time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridmu.core.features.table_rows import RowEncoder
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.table_encoder import Column, Encoder, make_columns
from hybridmu.errors import DataError, StateError
from hybridmu.serving.answer_schemas import problem
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.forward_passes import fastest, loop

SCHEMA = pa.schema([
    ("a", pa.float64()),
    ("filled", pa.float32()),
    ("i", pa.int64()),
    ("u", pa.uint64()),
    ("b", pa.bool_()),
    ("maybe", pa.bool_()),
    ("l", pa.list_(pa.float64(), 2)),
    ("lf", pa.list_(pa.int64(), 2)),
    ("c", pa.string()),
    ("h", pa.string()),
    ("hf", pa.string()),
])  # fmt: skip
FILLS = {"filled": 2.5, "maybe": True, "lf": 7, "hf": "none"}
COLUMNS = make_columns(
    SCHEMA,
    SCHEMA.names,
    fills=FILLS,
    categories={"c": ["x", "y", "é"]},
    hash_buckets={"h": 5, "hf": 3},
    scale={"a": 0.1, "u": 1e-19, "l": 0.3, "lf": 1e-9, "b": 2.0},
)
ENCODER = Encoder(COLUMNS, "label", ("no", "yes"))
GOOD: dict[str, Any] = {
    "a": 0.5, "filled": None, "i": 3, "u": 2**63 + 1025, "b": True, "maybe": None, "l": [0.25, -1.0],
    "lf": None, "c": "é", "h": "", "hf": None,
}  # fmt: skip

DOUBLE = st.floats(-1e30, 1e30)
ROW = st.fixed_dictionaries({
    "a": DOUBLE,
    "filled": st.none() | st.floats(-1e6, 1e6, width=32),
    "i": st.integers(-(2**63), 2**63 - 1),
    "u": st.integers(0, 2**64 - 1),
    "b": st.booleans(),
    "maybe": st.none() | st.booleans(),
    "l": st.lists(DOUBLE, min_size=2, max_size=2),
    "lf": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    "c": st.sampled_from(["x", "y", "é"]),
    "h": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "hf": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
})
# What JSON, MessagePack or a Python caller can bring.
CELL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400])
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "x\x00", "1.5", "NaN"])
    | st.binary(max_size=2)
    | st.decimals(allow_nan=True)
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
ANY_ROW = st.builds(lambda row, other: {**row, **other}, ROW, st.dictionaries(st.sampled_from(SCHEMA.names), CELL))
ANY_REQUEST = st.lists(ANY_ROW | CELL, max_size=3) | CELL


def ensemble(*nets: nn.Module, encoder: Encoder = ENCODER) -> Ensemble:
    torch.manual_seed(0)
    made = nets or [nn.Linear(encoder.features, 2) for _ in range(2)]
    return Ensemble(7, {n: (f"blob{n}", SubModel(net).eval()) for n, net in enumerate(made)}, encoder, "mean")


@given(st.lists(ROW, min_size=1, max_size=4))
def test_served_rows_have_the_bits_of_a_table(rows):
    table = pa.Table.from_pylist(rows, SCHEMA)
    assert RowEncoder(ENCODER).encode(rows).tobytes() == ENCODER.encode(table).tobytes()


ANSWERING = ensemble()


@settings(deadline=None)
@given(ANY_REQUEST, st.integers(0, 2))
def test_whatever_a_request_holds_concerns_that_request_alone(odd, place):
    good = [[GOOD], [{**GOOD, "a": -1.0}, {**GOOD, "c": "x"}]]
    expected = ANSWERING.answers(good)
    found = ANSWERING.answers([*good[:place], odd, *good[place:]])
    answer = found.pop(place)
    if isinstance(answer, DataError):
        assert found == expected, "every bit"
        assert all(text.encode() or not text for text in problem(answer).values()), "it can be said"
    else:
        assert [type(one) for one in found] == [dict, dict]
        assert len(answer["predictions"]) == len(odd)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("a", "abc", "'a' has a wrong value"),
        ("a", "1.5", "'a' has a wrong value"),
        ("a", np.timedelta64(5, "D"), "'a' has a wrong value"),
        ("i", np.timedelta64(5), "'i' has a wrong value"),
        ("b", np.timedelta64(1), "'b' has a wrong value"),
        ("maybe", np.timedelta64("NaT"), "'maybe' has a wrong value"),
        ("l", [np.timedelta64(5, "s"), 1.0], "'l' has a wrong value in its list"),
        ("l", np.array([5, 6], dtype="m8[ns]"), "'l' has a wrong value"),
        ("l", np.array([5, 6], dtype="M8[ns]"), "'l' has a wrong value"),
        ("a", None, "'a' has a null and no fill"),
        ("a", math.nan, "'a' has NaN, infinity"),
        ("a", 1e300, "'a' has NaN, infinity"),
        ("a", Decimal("sNaN"), "'a' has NaN, infinity"),
        ("a", 2**64, "'a' has an integer of more than 64 bits"),
        ("i", -(2**63) - 1, "'i' has an integer of more than 64 bits"),
        ("u", 10**400, "'u' has an integer of more than 64 bits"),
        ("a", [1.0], "'a' has a wrong value"),
        ("a", {"x": 1}, "'a' has a wrong value"),
        ("a", b"1", "'a' has a wrong value"),
        ("a", 1j, "'a' has a wrong value"),
        ("a", True, "'a' has a wrong value"),
        ("i", False, "'i' has a wrong value"),
        ("filled", np.True_, "'filled' has a wrong value"),
        ("b", 37, "'b' has a wrong value"),
        ("b", 0.5, "'b' has a wrong value"),
        ("b", "true", "'b' has a wrong value"),
        ("l", [1.0], "'l' has a list of another length"),
        ("l", [1.0, None], "'l' has a wrong value in its list"),
        ("l", [1.0, True], "'l' has a wrong value"),
        ("l", [1.0, [1.0]], "'l' has a wrong value"),
        ("l", [1.0, 10**400], "'l' has an integer of more than 64 bits"),
        ("l", "ab", "'l' has a wrong value"),
        ("l", {"0": 1, "1": 2}, "'l' has a wrong value"),
        ("c", "z", "'c' has a value outside"),
        ("c", 1, "'c' has a wrong value"),
        ("h", "\ud800", "'h' has text that is no Unicode"),
        ("h", None, "'h' has a null and no fill"),
    ],
)
def test_what_a_column_can_not_hold_is_refused_by_name(column, value, says):
    with pytest.raises(DataError, match=says):
        ANSWERING.encode([GOOD, {**GOOD, column: value}])


@pytest.mark.parametrize(("value", "as_if"), [(1, True), (0.0, False), (np.True_, True)])
def test_a_number_that_is_true_or_false_is_one(value, as_if):
    found = ANSWERING.encode([{**GOOD, "b": value}])
    assert found.tobytes() == ANSWERING.encode([{**GOOD, "b": as_if}]).tobytes()


def test_numbers_of_numpy_and_other_columns():
    row = {**GOOD, "a": np.float32(0.5), "i": np.int8(3), "u": np.uint64(2**63 + 1025), "l": np.array([0.25, -1.0])}
    assert ANSWERING.encode([{**row, "other": object()}]).tobytes() == ANSWERING.encode([GOOD]).tobytes()


def test_an_empty_request_beside_others():
    good, empty, nothing = ANSWERING.answers([[GOOD], [], None])  # type: ignore[list-item]
    assert isinstance(good, dict)
    assert isinstance(empty, DataError)
    assert isinstance(nothing, DataError)


WHOLE = RowEncoder(ENCODER, {"i", "filled", "lf"})


@pytest.mark.parametrize(("column", "value"), [("i", 0.3), ("i", Decimal("0.3")), ("filled", 1e-9), ("lf", [1, 2.5])])
def test_a_part_of_a_number_is_refused_where_training_had_whole_ones(column, value):
    with pytest.raises(DataError, match=f"'{column}' has a number that is not whole"):
        WHOLE.encode([GOOD, {**GOOD, column: value}])


def test_whole_numbers_are_one_however_they_are_written():
    rows = [{**GOOD, "i": 3.0, "filled": None, "lf": None}, {**GOOD, "i": 1e18, "lf": [2.0, 3]}]
    assert WHOLE.encode(rows).tobytes() == RowEncoder(ENCODER).encode(rows).tobytes()


class Picky(nn.Linear):
    """Raises at some rows, and says infinity of others."""

    def forward(self, x):
        if (x[:, 0] > 5).any():
            raise KeyError("a user's model may raise anything")
        return torch.where(x[:, :1] < -5, torch.inf, super().forward(x))


def test_a_model_that_fails_at_some_rows_answers_the_others():
    encoder = Encoder(make_columns(pa.schema([("a", pa.float64())]), ["a"], **NONE), "y", (0, 1))
    found = ensemble(Picky(1, 2), encoder=encoder)
    requests = [[{"a": 1.0}], [{"a": 9.0}], [{"a": 2.0}], [{"a": -9.0}]]
    right, fails, other, endless = found.answers(requests)
    assert [right, other] == [found.answers([request])[0] for request in (requests[0], requests[2])]
    assert "can't answer these rows" in str(fails)
    assert "KeyError" in str(fails)
    assert "no finite answer" in str(endless)
    gone = found.withholding(frozenset({0}))
    with pytest.raises(StateError, match="no shard is left"):
        gone.answers(requests)


NONE: dict[str, Any] = {"fills": {}, "categories": {}, "hash_buckets": {}, "scale": {}}


class Unusual(nn.Linear):
    """Knows whether it is run as one of many: functional transforms can't do that, and say so in their own way."""

    def __init__(self, error: type[Exception]):
        super().__init__(3, 2)
        self.error = error

    def forward(self, x):
        if torch._C._functorch.is_batchedtensor(self.weight):
            raise self.error
        return super().forward(x).relu()


@pytest.mark.parametrize("error", [AttributeError, KeyError, AssertionError, TypeError])
@torch.no_grad()
def test_what_functional_transforms_can_not_run_is_run_by_the_plain_loop(error):
    models = [SubModel(Unusual(error)).eval() for _ in range(3)]
    name, forward, seconds = fastest(models, torch.zeros(16, 3))
    x = torch.randn(5, 3)
    assert (name, set(seconds)) == ("loop", {"loop"})
    assert torch.equal(forward(x), loop(models)(x))


@torch.no_grad()
def test_a_scripted_module_is_answered():
    models = [SubModel(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))) for _ in range(2)]
    name, forward, _ = fastest(models, torch.zeros(16, 3))
    x = torch.randn(5, 3)
    assert name == "loop"
    assert torch.equal(forward(x), loop(models)(x))


@torch.no_grad()
def test_a_way_that_fails_later_gives_what_the_loop_gives(monkeypatch):
    models = [SubModel(nn.Conv1d(1, 2, 1), nn.Flatten(1)).eval() for _ in range(2)]

    sample = torch.zeros(16, 1, 3)
    known = loop(models)(sample)

    def moody(models):
        return lambda x: {}["right on the sample"] if x.any() else known

    monkeypatch.setattr("hybridmu.serving.forward_passes.vmapped", moody)
    name, forward, _ = fastest(models, sample)
    x = torch.randn(5, 1, 3)
    assert name == "vmap", "nothing is faster than what is known"
    assert torch.equal(forward(x), loop(models)(x))


@pytest.mark.parametrize(("kind", "value"), [("number", 1.5), ("bool", True), ("list", [1.0, 2.0]), ("hash", "x")])
def test_the_time_of_a_row_grows_with_its_columns_alone(kind, value):
    """A ratio in one run: looking every column up among all others would make it more than a hundred times as much."""

    def seconds(count: int) -> float:
        columns = tuple(Column(f"f{number}", kind, 2 if kind == "list" else 1) for number in range(count))
        encoder, row = RowEncoder(Encoder(columns, "y", (0, 1))), {column.name: value for column in columns}
        took = []
        for _ in range(5):
            started = time.process_time()
            encoder.encode([row])
            took.append(time.process_time() - started)
        return min(took)

    assert seconds(4_000) < 100 * seconds(200)
