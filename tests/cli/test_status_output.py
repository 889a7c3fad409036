"""Lengths of time in `hybridmu status`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridmu.cli.durations import due

SECONDS = {"s": 1.0, "min": 60.0, "h": 3_600.0, "days": 86_400.0}


@given(st.floats(-1e9, 1e9))
def test_a_deadline_is_said_in_few_digits_and_near_enough(seconds):
    said = due(seconds)
    number, unit = said.split()[-2:]
    assert said.startswith("due in " if seconds > 0 else "overdue by ")
    assert abs(float(number) * SECONDS[unit] - abs(seconds)) <= SECONDS[unit] / 2
    assert float(number) >= 2 or unit == "s"
    assert float(number) <= 120 or unit == "days"
