"""Typed JSON: whatever a dataclass says comes back as it was, and nothing else comes in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.verifier.typed_json import MalformedError, Rule, read
from tests.sample_certificates import json_values


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    truth: Literal[True] | None = None


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, Rule("0 or more", lambda count: count >= 0)]
    share: float | None
    flag: bool
    name: str
    inner: tuple[Inner, ...]
    by_name: dict[str, int]


GOOD = {"count": 1, "share": 0.5, "flag": True, "name": "x", "inner": [{"kind": "a"}], "by_name": {"y": 2}}

outers = st.builds(
    Outer,
    count=st.integers(0),
    share=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    name=st.text(),
    inner=st.lists(st.builds(Inner, kind=st.sampled_from(["a", "b"]), truth=st.sampled_from([True, None]))).map(tuple),
    by_name=st.dictionaries(st.text(), st.integers()),
)


@given(outers)
def test_what_was_written_is_read_back(made):
    assert read(Outer, json.loads(json.dumps(asdict(made)))) == made


@given(json_values)
def test_other_data_is_refused(value):
    with pytest.raises(MalformedError):
        read(Outer, value)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("count", True, "count"),
        ("count", 1.0, "count"),
        ("count", -1, "count"),
        ("count", "1", "count"),
        ("share", True, "share"),
        ("share", "0.5", "share"),
        ("share", float("nan"), "share"),
        ("share", float("inf"), "share"),
        ("share", 10**400, "share"),
        ("flag", 1, "flag"),
        ("flag", None, "flag"),
        ("name", None, "name"),
        ("inner", {"kind": "a"}, "inner"),
        ("inner", [{"kind": "c"}], "inner.0.kind"),
        ("inner", [{"kind": "a"}, {"kind": "a", "truth": 1}], "inner.1.truth"),
        ("inner", [{}], "inner.0.kind"),
        ("by_name", {"y": 2.5}, "by_name.y"),
        ("more", 1, "more"),
    ],
)
def test_an_error_says_where(name, value, where):
    assert read(Outer, GOOD)
    with pytest.raises(MalformedError) as error:
        read(Outer, {**GOOD, name: value})
    assert ".".join(error.value.where).strip("'") == where
