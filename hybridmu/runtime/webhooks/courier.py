"""Courier: tells one receiver what waits for it, and keeps what it did not acknowledge for another try."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from hybridmu import config
from hybridmu.config import WebhookSettings
from hybridmu.config.addresses import whole_path
from hybridmu.errors import ConfigError
from hybridmu.runtime.webhooks.message_body import body_of
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.post import Answer, post
from hybridmu.runtime.webhooks.signature import parse_secrets, signed_headers
from hybridmu.store.key_files import read_secret
from hybridmu.store.ledger.webhook_queue import Message, Webhooks

_log = logging.getLogger(__name__)
_AT_ONCE = 100
_HOUR = 3600.0


class Courier:
    """Tells one receiver.

    Args:
        name: What the configuration calls it.
        receiver: Its settings.
        webhooks: The outbox.
        system: The system's name.
        pace: How fast.

    Raises:
        ConfigError: Its secret can't be read, or is none.
    """

    def __init__(self, name: str, receiver: WebhookSettings, webhooks: Webhooks, system: str, pace: Pace) -> None:
        self.name = name
        self._receiver, self._webhooks, self._system, self._pace = receiver, webhooks, system, pace
        self._secrets = read_secrets(name, receiver)
        self._rests_until, self._out_of_reach = 0.0, 0

    def step(self, lease: Callable[[float], int | None]) -> bool:
        """Return whether something was sent: what is due now, each request's first unacknowledged event.

        Args:
            lease: Returns the fencing token if nobody else will send within so many seconds; else None.

        Raises:
            LeaseLostError: Another sender took over; what is not noted is sent by that one once more.
        """
        if time.monotonic() < self._rests_until:
            return False
        sent = False
        for message in self._webhooks.due(self.name, _AT_ONCE, 2 * self._pace.longest):
            token = lease(self._receiver.timeout_seconds)
            if token is None:
                return False
            answer, sent = self._sent(message), True
            if answer.problem is None:
                self._webhooks.acknowledged(token, message)
            else:
                self._keep(token, message, answer.problem)
            if not answer.reached:  # the others would fare no better
                self._out_of_reach += 1
                pause = self._pace.pause(self._out_of_reach, random.random())
                self._rests_until = time.monotonic() + min(self._pace.rest, pause)
                break
            self._out_of_reach = 0
        return sent

    def _sent(self, message: Message) -> Answer:
        body = body_of(message, self._system)
        return post(self._receiver, signed_headers(self._secrets, message.message_id, int(time.time()), body), body)

    def _keep(self, token: int, message: Message, problem: str) -> None:
        """Have a message tried again, or give it up when it is too old."""
        now, told = time.time(), f"receiver {self.name} was not told that {message.request_id} is {message.event}"
        since = message.first_tried_at
        dead = since is not None and now - since >= self._receiver.give_up_hours * _HOUR
        wait = self._pace.pause(message.attempts + 1, random.random())
        self._webhooks.failed(token, message, problem, now + wait, dead=dead)
        if dead:
            _log.error("%s (%s); given up, see `hybridmu webhooks list`", told, problem)
        elif message.attempts == 0:
            _log.warning("%s (%s); tried again in %.0f s", told, problem, wait)


def read_secrets(name: str, receiver: WebhookSettings) -> tuple[bytes, ...]:
    """Return the keys that sign what a receiver is told.

    Args:
        name: Of the receiver.
        receiver: Its settings.

    Raises:
        ConfigError: They can't be read, others than the file's owner may read it, or they are none.
    """
    kind, _, where = receiver.secret.partition(":")
    try:
        data = config.secret(where) if kind == "env" else read_secret(whole_path(where))
    except (FileNotFoundError, NotADirectoryError):
        data = None
    if data is None or not data.strip():
        raise ConfigError(
            f"webhooks.{name}.secret can't be read, or is empty",
            expected="a set environment variable" if kind == "env" else "an existing file that this user may read",
            got=receiver.secret,
            remedy='make one: echo "whsec_$(openssl rand -base64 32)"; its receiver needs the same',
        )
    return parse_secrets(data, receiver.secret)
