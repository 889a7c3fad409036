"""Trial of a receiver: one signed event, sent now, by which an operator sees whether it is taken."""

from __future__ import annotations

import time
import uuid
from typing import Any

from hybridmu.config import WebhookSettings
from hybridmu.runtime.webhooks.courier import read_secrets
from hybridmu.runtime.webhooks.message_body import trial_body
from hybridmu.runtime.webhooks.post import post
from hybridmu.runtime.webhooks.signature import signed_headers


def try_receiver(name: str, receiver: WebhookSettings, system: str) -> dict[str, Any]:
    """Return what came of one event of type `test`: whether it was acknowledged, else why not, and how long it took.

    Args:
        name: What the configuration calls the receiver.
        receiver: Its settings.
        system: The system's name.

    Raises:
        ConfigError: Its secret can't be read, or is none.
    """
    secrets, now, began = read_secrets(name, receiver), time.time(), time.monotonic()
    body = trial_body(system, now)
    answer = post(receiver, signed_headers(secrets, f"msg_{uuid.uuid4().hex}", int(now), body), body)
    taken = answer.problem is None
    return {"receiver": name, "acknowledged": taken, "problem": answer.problem, "seconds": time.monotonic() - began}
