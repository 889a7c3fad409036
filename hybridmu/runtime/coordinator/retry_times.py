"""Retry times: when a shard is tried again after work that no request asked for failed on it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable

_RETRY_SECONDS = 60.0
_SOON_SECONDS = 0.5  # until what failed for the first times is tried again: a crowded machine is calm again, or not


class RetryTimes:
    """Counts failures by shard, and lets a while pass after each.

    Args:
        max_attempts: How many failures in a row come soon after each other.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._not_before: dict[int, float] = {}  # shard → when it is tried again
        self._failures: Counter[int] = Counter()  # shard → how often it failed since one came through

    def put_off(self, shards: Iterable[int]) -> None:
        """Let a while pass before some shards are tried again; first a short one."""
        for shard in shards:
            self._failures[shard] += 1
            soon = self._failures[shard] < self._max_attempts
            self._not_before[shard] = time.monotonic() + (_SOON_SECONDS if soon else _RETRY_SECONDS)

    def use_up(self, shard: int) -> None:
        """Put a shard off whose job had all its attempts, or that no other would help."""
        self._failures[shard] = self._max_attempts
        self.put_off([shard])

    def came_through(self, shards: Iterable[int]) -> None:
        """Forget the failures of shards that were published."""
        for shard in shards:
            self._failures.pop(shard, None)

    def resting(self) -> set[int]:
        """Return the shards whose time has not come."""
        return {shard for shard, until in self._not_before.items() if time.monotonic() < until}

    def blocked(self, shards: Collection[int]) -> set[int]:
        """Return those of some shards that failed again and again."""
        return {shard for shard in shards if self._failures[shard] >= self._max_attempts}
