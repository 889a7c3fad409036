"""Number of inputs that every door is tried with: a thousand in `make test`, ten thousand in `make test-full`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def inputs(count: int) -> Any:
    """Parametrise a test by `count`: so many inputs, and ten times as many where slow tests run."""
    full = pytest.param(9 * count, marks=pytest.mark.slow, id="full")
    return pytest.mark.parametrize("count", [pytest.param(count, id="short"), full])


def tried(count: int, strategy: st.SearchStrategy[Any], door: Callable[[Any], None]) -> None:
    """Pass so many drawn inputs through a door; the same ones in every run of so many."""
    seed(count)(settings(max_examples=count, suppress_health_check=_QUIET)(given(strategy)(door)))()
