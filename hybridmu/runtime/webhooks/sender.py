"""Sender: threads of their own that tell receivers, one sender at a time, whatever becomes of a receiver.

The coordinator waits for none of them. Two senders never send side by side: a lease says who does, and nobody begins a
try that could outlast it. A process that is stopped in the middle of a try, and goes on after its lease has run out,
can repeat that one event late; it is older than what its receiver has seen, by its timestamp and its sequence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hybridmu.config import WebhookSettings
from hybridmu.errors import HybridMUError, LeaseLostError
from hybridmu.runtime.webhooks.courier import Courier
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.workers.isolation import apart
from hybridmu.store.ledger.webhook_queue import Webhooks

_log = logging.getLogger(__name__)


class Messenger(Protocol):
    """Who tells one of those who are told something."""

    @property
    def name(self) -> str:
        """Return whom."""
        ...

    def step(self, lease: Callable[[float], int | None]) -> bool:
        """Return whether something was sent."""
        ...


class Sender:
    """Tells all receivers of one configuration.

    Args:
        receivers: Name → settings.
        webhooks: The outbox.
        system: The system's name.
        holder: Name under which the lease is taken.
        pace: How fast.
        others: Couriers that tell somebody else than a receiver, and how long one try of each may take.

    Raises:
        ConfigError: A receiver's secret can't be read, or is none.
    """

    def __init__(
        self,
        receivers: Mapping[str, WebhookSettings],
        webhooks: Webhooks,
        system: str,
        holder: str,
        pace: Pace | None = None,
        others: Sequence[tuple[Messenger, float]] = (),
    ) -> None:
        self._pace = pace or Pace()
        self._couriers: list[Messenger] = [
            Courier(name, one, webhooks, system, self._pace) for name, one in receivers.items()
        ]
        self._couriers += [courier for courier, _ in others]
        self._wanted = {name: one.events for name, one in receivers.items()}
        self._webhooks, self._holder = webhooks, holder
        longest = [*(one.timeout_seconds for one in receivers.values()), *(seconds for _, seconds in others)]
        self._lease_seconds = self._pace.lease + max(longest, default=0.0)
        self._token: int | None = None
        self._held_until = 0.0  # on the monotonic clock
        self._ends_at = float("inf")  # likewise, once it was stopped
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    @property
    def leads(self) -> bool:
        """Return whether this sender is the one that sends."""
        return self._token is not None and time.monotonic() < self._held_until

    def start(self) -> None:
        """Begin to send, as soon as no other sender does; the receivers are those of this configuration from now on."""
        self._webhooks.configure(self._wanted)
        self._thread.start()

    def wait_for_lease(self) -> bool:
        """Return whether this sender sends; waits until it is known."""
        self._looked.wait()
        return self.leads

    def stop(self, seconds: float = 0.0) -> None:
        """End, once what is due was tried, and give the lease back.

        Args:
            seconds: How long that may take; a try that was begun is waited for.
        """
        self._ends_at = time.monotonic() + seconds
        self._stop.set()
        self._thread.join(min(seconds + self._lease_seconds, threading.TIMEOUT_MAX))

    # ------------------------------------------------------------------ in threads

    def _run(self) -> None:
        threads = [
            threading.Thread(target=self._deliver, args=[courier], name=f"webhooks-{courier.name}", daemon=True)
            for courier in self._couriers
        ]
        self._lead()
        self._looked.set()
        for thread in threads:
            thread.start()
        while not self._stop.wait(self._pace.look) or any(thread.is_alive() for thread in threads):
            self._lead()
            if self._stop.is_set():
                for thread in threads:
                    thread.join(self._pace.look / len(threads))
        token, self._token = self._token, None
        if token is not None:
            try:
                self._webhooks.lease.release(token)
            except HybridMUError as error:  # it runs out
                _log.warning("the lease of webhooks could not be given back: %s", type(error).__name__)

    def _lead(self) -> None:
        """Take or keep the lease, and see which requests are overdue."""
        began = time.monotonic()
        try:
            with apart("sending webhooks"):
                if (token := self._token) is None:
                    token = self._webhooks.lease.acquire(self._holder, self._lease_seconds)
                elif self._held_until - began > 0.8 * self._lease_seconds:
                    return
                else:
                    self._webhooks.lease.heartbeat(token, self._lease_seconds)
                if token is not None:
                    self._held_until, self._token = began + self._lease_seconds, token
                    self._webhooks.note_overdue()
        except LeaseLostError:
            self._token = None
        except HybridMUError as error:
            _log.warning("webhooks wait: %s", type(error).__name__)

    def _held(self, seconds: float) -> int | None:
        """Return the fencing token, if a try of so many seconds ends before the lease can; else None."""
        now, token = time.monotonic(), self._token
        return token if now + seconds < self._held_until and now < self._ends_at else None

    def _deliver(self, courier: Messenger) -> None:
        while True:
            last, busy = self._stop.is_set(), False  # what was written before is looked at once more
            try:
                with apart(f"telling receiver {courier.name}"):
                    busy = courier.step(self._held)
            except LeaseLostError:
                self._token = None
            except HybridMUError as error:
                _log.warning("webhooks to receiver %s wait: %s", courier.name, type(error).__name__)
            if last and not busy:
                return
            if not busy:
                self._stop.wait(self._pace.look)
