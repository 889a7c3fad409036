"""Courier to Fides: answers each of its privacy requests once our request is purged, so that it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult

from hybridmu.config import FidesSettings
from hybridmu.runtime.webhooks.delivery import Delivery
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.post import Answer, post
from hybridmu.store.ledger.replies import Replies, Reply


@dataclass(frozen=True)
class _Place:
    """Where one answer goes."""

    address: SplitResult
    private_network: bool
    timeout_seconds: float


class FidesCourier(Delivery[Reply]):
    """Answers one Fides.

    Args:
        fides: Its settings.
        replies: What it waits for.
        pace: How fast.
    """

    name = "fides"

    def __init__(self, fides: FidesSettings, replies: Replies, pace: Pace) -> None:
        super().__init__(pace, fides.timeout_seconds, fides.give_up_hours)
        self._fides, self._replies = fides, replies

    def due(self, count: int, seconds: float) -> Sequence[Reply]:
        """Return answers of requests that are purged."""
        return self._replies.due(count, seconds)

    def sent(self, one: Reply) -> Answer:
        """Return the answer of Fides, which is told to go on with its privacy request."""
        place = _Place(self._fides.address_of(one.path), self._fides.private_network, self._fides.timeout_seconds)
        return post(place, {"authorization": f"Bearer {one.token}"}, b"{}")

    def taken(self, token: int, one: Reply) -> None:
        """Note that it was taken, fenced."""
        self._replies.taken(token, one.name)

    def failed(self, token: int, one: Reply, problem: str, next_at: float, *, dead: bool) -> None:
        """Note that a try failed, fenced."""
        self._replies.failed(token, one.name, problem, next_at, dead=dead)

    def untold(self, one: Reply) -> str:
        """Return that Fides was not told of a purge."""
        return f"Fides was not told that {one.request_id} is purged"
