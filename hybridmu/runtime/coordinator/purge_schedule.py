"""Purge schedule: which requests are purged next, which wait after a failure, and which shards are kept for them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from hybridmu.store.ledger.purge.purge_records import Purgeable

# When a request that could not be purged is tried again.
_RETRY_SECONDS = 60.0
# How often the ledger is asked while nothing is due.
_LOOK_SECONDS = 1.0
# How long a due purge waits for busy shards before no new work starts on them.
_PATIENCE_SECONDS = 60.0
# A certificate costs some milliseconds, and a step of the coordinator must end.
_MOST_REQUESTS = 200


class PurgeSchedule:
    """Remembers when what is tried again; all of it can be lost."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._retry_at: dict[str, float] = {}
        self._due_since: dict[str, float] = {}
        self._reserved: frozenset[int] = frozenset()
        self._alone: set[str] = set()  # requests that failed together: whose fault it was shows one by one

    @property
    def unseen(self) -> bool:
        """Return whether nobody has looked yet since there may be something to do."""
        return self._look_at == 0.0

    @property
    def reserved(self) -> frozenset[int]:
        """Return the shards that a purge waited for too long."""
        return self._reserved

    def look(self) -> bool:
        """Return whether it is time to look for something to do; if so, the next time is a moment later."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS
        return True

    def wake(self) -> None:
        """Look at the next step."""
        self._look_at = 0.0

    def rest(self) -> None:
        """Look again only after a pause: what was tried last failed."""
        self._look_at = time.monotonic() + _RETRY_SECONDS

    def put_off(self, requests: Collection[str]) -> None:
        """Try requests that were not purged again after a pause."""
        for name in requests:
            self._retry_at[name] = time.monotonic() + _RETRY_SECONDS

    def part(self, requests: Collection[str]) -> None:
        """Purge each of several requests that failed together alone from now on."""
        if len(requests) > 1:
            self._alone.update(requests)

    def due(self, found: Sequence[Purgeable]) -> list[Purgeable]:
        """Return the requests that may go now.

        Args:
            found: All that are served and exact.
        """
        now = time.monotonic()
        self._retry_at = {name: at for name, at in self._retry_at.items() if at > now}
        return [item for item in found if item.blocked is None and item.request_id not in self._retry_at]

    def together(self, due: Sequence[Purgeable], found: Sequence[Purgeable], busy: Collection[int]) -> list[Purgeable]:
        """Return the requests to purge now in one batch, and reserve the shards of what waits for them too long.

        Args:
            due: Requests that may go, each with shards.
            found: All that are served and exact.
            busy: Shards with jobs. One that was reserved for a purge counts as busy to all others only.
        """
        self._reserve(due)
        free = [item for item in due if item.shards.isdisjoint(busy)][:_MOST_REQUESTS]
        self._alone &= {item.request_id for item in found}
        return [item for item in free if item.request_id in self._alone][:1] or free

    def _reserve(self, due: Sequence[Purgeable]) -> None:
        """Reserve the shards of what waits for them too long: new requests would always come first."""
        now = time.monotonic()
        self._due_since = {item.request_id: self._due_since.get(item.request_id, now) for item in due}
        late = [item for item in due if now - self._due_since[item.request_id] > _PATIENCE_SECONDS]
        self._reserved = frozenset().union(*(item.shards for item in late))
