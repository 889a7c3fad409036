"""Bodies of webhooks: what happened to which request, and nothing about whose rows it names."""

from __future__ import annotations

import json
from typing import Any

from hybridmu.store.ledger.webhook_queue import Message
from hybridmu.verifier.plain_data import moment

_TIMES = ("received_at", "deadline_at", "applied_at", "served_at", "exact_at", "purged_at")


def body_of(message: Message, system: str) -> bytes:
    """Return the body of a message, the same at every try.

    It holds no id of a row or person, no hash of one, no reason that somebody wrote, and no number of rows.

    Args:
        message: What a receiver is told.
        system: The system's name.
    """
    facts = message.facts
    data = {
        "system": system,
        "request_id": message.request_id,
        "caller": message.caller,
        "event": message.event,
        "sequence": message.seq,
        "state": facts["state"],
        "version": facts["version_after"],
        "version_exact": facts["version_exact"],
        "certificate": {"available": facts["certificate"] is not None, "number": facts["certificate"]},
        **{name: None if facts[name] is None else moment(facts[name]) for name in _TIMES},
    }
    return _json(f"request.{message.event}", message.occurred_at, data)


def trial_body(system: str, at: float) -> bytes:
    """Return the body of a trial, by which an operator sees whether a receiver takes what is sent.

    Args:
        system: The system's name.
        at: Seconds since the epoch.
    """
    return _json("test", at, {"system": system})


def _json(kind: str, at: float, data: dict[str, Any]) -> bytes:
    document = {"type": kind, "timestamp": moment(at), "data": data}
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
