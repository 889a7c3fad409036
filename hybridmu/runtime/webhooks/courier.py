"""Courier: tells one receiver what waits for it, and keeps what it did not acknowledge for another try."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from hybridmu import config
from hybridmu.config import WebhookSettings
from hybridmu.config.addresses import whole_path
from hybridmu.errors import ConfigError
from hybridmu.runtime.webhooks.delivery import Delivery
from hybridmu.runtime.webhooks.message_body import body_of
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.post import Answer, post
from hybridmu.runtime.webhooks.signature import parse_secrets, signed_headers
from hybridmu.store.key_files import read_secret
from hybridmu.store.ledger.webhook_queue import Message, Webhooks


class Courier(Delivery[Message]):
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

    given_up: ClassVar[str] = "given up, see `hybridmu webhooks list`"

    def __init__(self, name: str, receiver: WebhookSettings, webhooks: Webhooks, system: str, pace: Pace) -> None:
        super().__init__(pace, receiver.timeout_seconds, receiver.give_up_hours)
        self.name = name
        self._receiver, self._webhooks, self._system = receiver, webhooks, system
        self._secrets = read_secrets(name, receiver)

    def due(self, count: int, seconds: float) -> Sequence[Message]:
        """Return each request's first unacknowledged event."""
        return self._webhooks.due(self.name, count, seconds)

    def sent(self, one: Message) -> Answer:
        """Return the answer to an event, sent with its signature."""
        body = body_of(one, self._system)
        return post(self._receiver, signed_headers(self._secrets, one.message_id, int(time.time()), body), body)

    def taken(self, token: int, one: Message) -> None:
        """Note that it was acknowledged, fenced."""
        self._webhooks.acknowledged(token, one)

    def failed(self, token: int, one: Message, problem: str, next_at: float, *, dead: bool) -> None:
        """Note that a try failed, fenced."""
        self._webhooks.failed(token, one, problem, next_at, dead=dead)

    def untold(self, one: Message) -> str:
        """Return which receiver was not told of what."""
        return f"receiver {self.name} was not told that {one.request_id} is {one.event}"


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
