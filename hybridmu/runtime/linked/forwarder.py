"""Forwarding: tells linked models of the requests that were asked here, each of them once.

A request is told as soon as it can't be cancelled here any more, and told again until the other model has accepted it.
That one knows it by its idempotency key, so a crash between its commit and our note does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridmu.config import Settings
from hybridmu.errors import DatabaseError, HybridMUError, LeaseLostError, StorageError
from hybridmu.faults import reach
from hybridmu.runtime.linked.peer import Peer, at, name_of, unreachable
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.forwards import Forward
from hybridmu.store.ledger.linked_systems import Link
from hybridmu.types import Origin
from hybridmu.user_code import place

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
# A step of the coordinator must end.
_MOST_AT_ONCE = 50
_OVER = "that model is retired"


@dataclass(frozen=True)
class Pause:
    """When something that failed is tried again.

    Attributes:
        failures: How often it failed in a row.
        until: By the monotonic clock.
    """

    failures: int
    until: float


def after_failure(before: Pause | None, now: float) -> Pause:
    """Return how long to wait: twice as long each time, up to some minutes.

    Args:
        before: What came of the last failure; None: it is the first.
        now: By the monotonic clock.
    """
    failures = 1 + (before.failures if before else 0)
    return Pause(failures, now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (failures - 1)))


class Forwarder:
    """Delivers what waits in one model's outbox.

    Args:
        settings: The model's configuration.
        database: Its database.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._name, self._identity = name_of(settings), database.identity
        self._links, self._forwards = database.links, database.forwards
        self._pauses: dict[tuple[str, str], Pause] = {}  # by model, and request or ""

    def step(self, beat: Callable[[], None] = lambda: None, *, patient: bool = True) -> int:
        """Deliver what is due.

        Args:
            beat: Called between deliveries; keeps the coordinator's lease.
            patient: Leave out, for a while, what failed before.

        Returns:
            How many requests were delivered.
        """
        waiting = self._forwards.waiting(begun=True)
        if not waiting:
            return 0
        links = {link.system: link for link in self._links.live()}
        delivered = 0
        for system in dict.fromkeys(forward.system for forward in waiting):
            mine = [forward for forward in waiting if forward.system == system]
            if system in links and not (patient and self._pausing(system, "")):
                beat()
                delivered += self._deliver(links[system], mine, beat, patient)
        return delivered

    def _deliver(self, link: Link, waiting: Sequence[Forward], beat: Callable[[], None], patient: bool) -> int:
        delivered = 0
        try:
            with at(link) as peer:
                if peer.over:
                    self._links.retire(link.system, _OVER)
                    return 0
                peer.check()
                self._pauses.pop((link.system, ""), None)
                due = [x for x in waiting if not (patient and self._pausing(link.system, x.request_id))]
                for forward in due[:_MOST_AT_ONCE]:
                    beat()
                    delivered += self._tell(peer, link, forward)
        except LeaseLostError:
            raise
        except Exception as error:  # the coordinator must go on, whatever another model's disk or database does
            self._failed(link, waiting, "", error)
        return delivered

    def _tell(self, peer: Peer, link: Link, forward: Forward) -> bool:
        """Return whether a model has a request now."""  # noqa: DOC501 - what it raises again concerns all requests
        parcel = self._forwards.parcel(forward)
        origin = Origin(self._identity.system(), self._name, forward.request_id, parcel.deadline_at)
        try:
            there = peer.take(parcel, origin)
        except (DatabaseError, StorageError):
            raise
        except HybridMUError as error:  # of this request alone; others may come through
            self._failed(link, [forward], forward.request_id, error)
            return False
        reach("forward.accepted")
        self._forwards.mark_delivered(forward, parcel, there)
        self._pauses.pop((link.system, forward.request_id), None)
        return True

    def _failed(self, link: Link, forwards: Sequence[Forward], request_id: str, error: Exception) -> None:
        if not isinstance(error, HybridMUError):
            where = place(error) or "an unknown place"  # and not its text, which may name a person
            _log.warning("model %s could not be told of a request: %s at %s", link.name, type(error).__name__, where)
        self._pauses[link.system, request_id] = after_failure(
            self._pauses.get((link.system, request_id)), time.monotonic()
        )
        self._forwards.note(forwards, unreachable(error))

    def _pausing(self, system: str, request_id: str) -> bool:
        pause = self._pauses.get((system, request_id))
        return pause is not None and time.monotonic() < pause.until
