"""Arrivals of deletion requests in a simulated load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """A deletion request.

    Attributes:
        at: Seconds since the start.
        rows: (shard, slice) → rows of it there; slices count from 1.
    """

    at: float
    rows: Mapping[tuple[int, int], int]
