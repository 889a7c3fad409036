"""Webhooks of a system: who is told of the life of its requests, what waits, and the sending."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from hybridmu.errors import ConfigError, StateError
from hybridmu.system.arguments import AnyName, Flag, Name, checked
from hybridmu.system.coordination import Coordination
from hybridmu.system.session import Session

_LAST_SECONDS = 30.0  # what is due when a coordinator ends on its own


class Webhooks:
    """Receivers of one system's events.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def webhooks(self) -> dict[str, Any]:
        """Return how far every receiver has been told, and the oldest hundred events that were given up."""
        session = self._session
        configured = session.given.webhooks
        found = {counts.name: asdict(counts) for counts in session.database.webhooks.counts()}
        new = {name: one for name, one in configured.items() if name not in found}
        found |= {name: _unknown(name, one.events) for name, one in new.items()}
        receivers = [
            {**found[name], "host": configured[name].address.hostname if name in configured else None}
            for name in sorted(found)
        ]
        sender = session.database.webhooks.lease.holder()
        return {"receivers": receivers, "dead": session.database.webhooks.dead(), "sender": sender}

    @checked
    def retry_webhooks(self, receiver: AnyName = None, request_id: AnyName = None) -> int:
        """Return how many events, given up or waiting after a failure, are tried again within a minute.

        Args:
            receiver: Only this one's.
            request_id: Only this request's.

        Raises:
            StateError: There is no such receiver.
        """
        return self._session.database.webhooks.retry(receiver, request_id)

    @checked
    def drop_webhooks(self, receiver: Name, request_id: AnyName = None) -> int:
        """Return how many events were deleted, of which a receiver will never be told.

        Args:
            receiver: The receiver.
            request_id: Only this request's.

        Raises:
            StateError: There is no such receiver.
        """
        return self._session.database.webhooks.drop(receiver, request_id)

    @checked
    def test_webhooks(self, receiver: AnyName = None) -> list[dict[str, Any]]:
        """Return what came of one signed event of type `test`, sent now, once, to one receiver or all.

        Args:
            receiver: Only this one.

        Raises:
            ConfigError: The configuration has no such receiver, or its secret can't be read.
        """
        from hybridmu.runtime.webhooks.trial import try_receiver

        session, configured = self._session, self._session.given.webhooks
        if not configured or (receiver is not None and receiver not in configured):
            raise ConfigError(
                "there is nobody to send to" if receiver is None else f"there is no receiver {receiver!r}",
                expected=" or ".join(configured) or "a receiver under webhooks: in the configuration",
                remedy="docs/webhooks.md has an example",
            )
        system = session.database.identity.system()
        names = [receiver] if receiver is not None else sorted(configured)
        return [try_receiver(name, configured[name], system) for name in names]

    @checked
    def send_webhooks(self, *, once: Flag = False) -> None:
        """Tell receivers until interrupted, beside whatever coordinator there is or none.

        Args:
            once: Return when everything that is due was tried.

        Raises:
            ConfigError: There is no receiver, or a secret can't be read.
            StateError: With `once`, somebody else sends.
        """
        session = self._session
        if not (session.given.webhooks or session.given.fides):
            raise ConfigError(
                "there is nobody to send to",
                expected="a receiver under webhooks: in the configuration",
                remedy="docs/webhooks.md has an example",
            )
        with sending(session) as sender:
            while not once:
                time.sleep(3600)
            assert sender is not None
            if not sender.wait_for_lease():
                holder = session.database.webhooks.lease.holder()
                raise StateError("somebody else sends the webhooks", got=str(holder), remedy="leave it to them")
            sender.stop(float("inf"))


@contextmanager
def sending(session: Session, last_seconds: float = _LAST_SECONDS) -> Iterator[Any]:
    """Tell receivers while the block runs, in threads that it never waits for.

    Args:
        session: The open system.
        last_seconds: When the block ends without an error: how long to try what is due then.

    Yields:
        The sender; None where the configuration has no receiver.

    Raises:
        ConfigError: A receiver's secret can't be read, or is none.
    """
    receivers, webhooks, fides = session.given.webhooks, session.database.webhooks, session.given.fides
    if not receivers and fides is None:
        webhooks.configure({})
        yield None
        return
    from hybridmu.runtime.webhooks.fides_courier import FidesCourier
    from hybridmu.runtime.webhooks.pace import Pace
    from hybridmu.runtime.webhooks.sender import Sender

    pace = Pace()
    others = [] if fides is None else [(FidesCourier(fides, session.database.replies, pace), fides.timeout_seconds)]
    sender = Sender(receivers, webhooks, session.database.identity.system(), Coordination.holder(), pace, others)
    sender.start()
    try:
        yield sender
    except BaseException:
        sender.stop()
        raise
    sender.stop(last_seconds)


def register_receivers(session: Session) -> None:
    """Write events for the configuration's receivers from now on, though nobody sends yet."""
    if session.given.webhooks:
        session.database.webhooks.register({name: one.events for name, one in session.given.webhooks.items()})


def _unknown(name: str, events: tuple[str, ...]) -> dict[str, Any]:
    """Return a receiver for whom nothing was ever written."""
    from hybridmu.store.ledger.webhook_queue import ReceiverCounts

    return asdict(ReceiverCounts(name, events, False, 0, 0, None, None))
