"""Whatever is passed to a verb in Python: it is taken, or refused by one of our errors."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from hybridmu.errors import HybridMUError
from tests.doors.fuzz import inputs, tried
from tests.system.test_arguments import VERBS, checks

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
    | st.characters(categories=["Cs"]) | st.dates() | st.decimals() | st.just(object())
    | st.integers(-5, 5).map(np.int64) | st.floats(width=32).map(np.float32)
    | st.sampled_from([np.zeros(()), np.zeros((2, 2)), np.array(["a"]), np.array([None]), pa.table({"a": [1]})]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2)
    | st.tuples(inner),
    max_leaves=5,
)  # fmt: skip


def passed(value: object) -> None:
    """Pass a value as every argument of every verb."""
    for name in VERBS:
        for argument, check in checks(name).items():
            if check is not None:
                with contextlib.suppress(HybridMUError):
                    check.of(argument, value)


@inputs(100)
def test_whatever_is_passed_only_our_errors_come_out(count: int) -> None:
    tried(count, VALUES, passed)
