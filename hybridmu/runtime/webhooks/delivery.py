"""Delivery of what waits in an outbox: one after the other, again and later where it failed, until it is too old."""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.post import Answer

_log = logging.getLogger(__name__)
_AT_ONCE = 100
_HOUR = 3600.0


class Waiting(Protocol):
    """What waits to be sent."""

    @property
    def attempts(self) -> int:
        """Return how often it was tried."""
        ...

    @property
    def first_tried_at(self) -> float | None:
        """Return when it was tried first; None: not yet."""
        ...


M = TypeVar("M", bound=Waiting)


class Delivery(ABC, Generic[M]):
    """Sends what one receiver is to be told.

    Args:
        pace: How fast.
        timeout_seconds: How long one try may take.
        give_up_hours: After how long it is given up.

    Attributes:
        given_up: The words of that, for the log.
    """

    given_up: ClassVar[str] = "given up"

    def __init__(self, pace: Pace, timeout_seconds: float, give_up_hours: float) -> None:
        self._pace, self._timeout_seconds, self._give_up_hours = pace, timeout_seconds, give_up_hours
        self._rests_until, self._out_of_reach = 0.0, 0

    @abstractmethod
    def due(self, count: int, seconds: float) -> Sequence[M]:
        """Return what is due now: at most so many, none put off for longer than so many seconds."""

    @abstractmethod
    def sent(self, one: M) -> Answer:
        """Send it, and return what came back."""

    @abstractmethod
    def taken(self, token: int, one: M) -> None:
        """Note that it was taken, fenced."""

    @abstractmethod
    def failed(self, token: int, one: M, problem: str, next_at: float, *, dead: bool) -> None:
        """Note that a try failed, fenced."""

    @abstractmethod
    def untold(self, one: M) -> str:
        """Return who was not told of what, for the log."""

    def step(self, lease: Callable[[float], int | None]) -> bool:
        """Return whether something was sent of what is due now.

        Args:
            lease: Returns the fencing token if nobody else will send within so many seconds; else None.

        Raises:
            LeaseLostError: Another sender took over; what is not noted is sent by that one once more.
        """
        if time.monotonic() < self._rests_until:
            return False
        sent = False
        for one in self.due(_AT_ONCE, 2 * self._pace.longest):
            token = lease(self._timeout_seconds)
            if token is None:
                return False
            answer, sent = self.sent(one), True
            if answer.problem is None:
                self.taken(token, one)
            else:
                self._keep(token, one, answer.problem)
            if not answer.reached:  # the others would fare no better
                self._out_of_reach += 1
                pause = self._pace.pause(self._out_of_reach, random.random())
                self._rests_until = time.monotonic() + min(self._pace.rest, pause)
                break
            self._out_of_reach = 0
        return sent

    def _keep(self, token: int, one: M, problem: str) -> None:
        """Have it tried again, or give it up when it is too old."""
        now, since = time.time(), one.first_tried_at
        dead = since is not None and now - since >= self._give_up_hours * _HOUR
        wait = self._pace.pause(one.attempts + 1, random.random())
        self.failed(token, one, problem, now + wait, dead=dead)
        if dead:
            _log.error("%s (%s); %s", self.untold(one), problem, self.given_up)
        elif one.attempts == 0:
            _log.warning("%s (%s); tried again in %.0f s", self.untold(one), problem, wait)
