"""Courier to Fides: answers each of its privacy requests once our request is purged, so that it goes on."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult

from hybridmu.config import FidesSettings
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.post import post
from hybridmu.store.ledger.replies import Replies, Reply

_log = logging.getLogger(__name__)
_AT_ONCE = 100
_HOUR = 3600.0


@dataclass(frozen=True)
class _Place:
    """Where one answer goes."""

    address: SplitResult
    private_network: bool
    timeout_seconds: float


class FidesCourier:
    """Answers one Fides.

    Args:
        fides: Its settings.
        replies: What it waits for.
        pace: How fast.
    """

    name = "fides"

    def __init__(self, fides: FidesSettings, replies: Replies, pace: Pace) -> None:
        self._fides, self._replies, self._pace = fides, replies, pace
        self._rests_until, self._out_of_reach = 0.0, 0

    def step(self, lease: Callable[[float], int | None]) -> bool:
        """Return whether something was sent: answers of requests that are purged.

        Args:
            lease: Returns the fencing token if nobody else will send within so many seconds; else None.

        Raises:
            LeaseLostError: Another sender took over; what is not noted is sent by that one once more.
        """
        if time.monotonic() < self._rests_until:
            return False
        sent = False
        for reply in self._replies.due(_AT_ONCE, 2 * self._pace.longest):
            token = lease(self._fides.timeout_seconds)
            if token is None:
                return False
            place = _Place(self._fides.address_of(reply.path), self._fides.private_network, self._fides.timeout_seconds)
            answer, sent = post(place, {"authorization": f"Bearer {reply.token}"}, b"{}"), True
            if answer.problem is None:
                self._replies.taken(token, reply.name)
            else:
                self._keep(token, reply, answer.problem)
            if not answer.reached:  # the others would fare no better
                self._out_of_reach += 1
                pause = self._pace.pause(self._out_of_reach, random.random())
                self._rests_until = time.monotonic() + min(self._pace.rest, pause)
                break
            self._out_of_reach = 0
        return sent

    def _keep(self, token: int, reply: Reply, problem: str) -> None:
        """Have an answer tried again, or give it up when it is too old."""
        now, since = time.time(), reply.first_tried_at
        dead = since is not None and now - since >= self._fides.give_up_hours * _HOUR
        wait = self._pace.pause(reply.attempts + 1, random.random())
        self._replies.failed(token, reply.name, problem, now + wait, dead=dead)
        if dead:
            _log.error("Fides was not told that %s is purged (%s); given up", reply.request_id, problem)
        elif reply.attempts == 0:
            _log.warning(
                "Fides was not told that %s is purged (%s); tried again in %.0f s", reply.request_id, problem, wait
            )
