"""The time that `size` says a request takes by itself lies between those that requests took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridmu.system.capacity import fast_quarter


@given(seconds=st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_it_is_between_the_least_and_the_greatest(seconds):
    assert min(seconds) <= fast_quarter(seconds) * (1 + 1e-12)
    assert fast_quarter(seconds) <= max(seconds) * (1 + 1e-12)
