"""Examination of webhooks: whether receivers can be told, and what they have not been told. No event is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hybridmu.config import FidesSettings, WebhookSettings
from hybridmu.errors import ConfigError
from hybridmu.store.ledger.engine.opening import has_tables
from hybridmu.store.ledger.webhook_queue import ReceiverCounts
from hybridmu.system.finding import Finding
from hybridmu.system.session import Session


def look_at_webhooks(session: Session) -> Iterator[Finding]:
    """Yield what is found of every receiver: its secret, whether it can be reached, and what it has to be told yet.

    Args:
        session: The open system.
    """
    receivers = session.given.webhooks
    counts: dict[str, ReceiverCounts] = {}
    sender = None
    if has_tables(session.given.database):
        counts = {one.name: one for one in session.database.webhooks.counts()}
        sender = session.database.webhooks.lease.holder()
    for name, receiver in sorted(receivers.items()):
        yield _secret(name, receiver)
        yield _reached(name, receiver)
        yield from _backlog(name, counts.get(name))
    for name in sorted(counts.keys() - receivers.keys()):
        if left := counts[name].waiting + counts[name].dead:
            yield Finding(
                f"webhook {name}",
                "note",
                f"{left} event(s) wait for a receiver that is no longer in the configuration",
                f"hybridmu webhooks drop {name}, or put it back",
            )
    if session.given.fides is not None:
        yield from _fides(session, session.given.fides)
    if sender is None and any(counts[name].waiting for name in receivers.keys() & counts.keys()):
        yield Finding("webhooks", "note", "nobody sends", "hybridmu run, or hybridmu webhooks send beside it")


def _fides(session: Session, fides: FidesSettings) -> Iterator[Finding]:
    from hybridmu.runtime.webhooks.post import out_of_reach  # as below

    place = WebhookSettings(url=fides.url, secret="env:NONE", private_network=fides.private_network)
    problem = out_of_reach(place)
    yield Finding(
        "fides",
        "wrong" if problem else "ok",
        f"{place.address.hostname} can't be reached from here: {problem}" if problem else "it can be reached",
        "correct fides.url (docs/fides.md); its answers wait meanwhile" if problem else "",
    )
    if has_tables(session.given.database):
        waiting, dead = session.database.replies.counts()
        yield Finding(
            "fides: answers",
            "wrong" if dead else "ok",
            f"{waiting} privacy request(s) wait for an answer" + (f", {dead} of them given up" if dead else ""),
            "resume these in Fides by hand; what they ask for is purged here" if dead else "",
        )


def _secret(name: str, receiver: WebhookSettings) -> Finding:
    from hybridmu.runtime.webhooks.courier import read_secrets  # late: most systems have no receiver

    try:
        keys = read_secrets(name, receiver)
    except ConfigError as error:
        return Finding(f"webhook {name}: secret", "wrong", f"{error.what} ({error.got})", error.remedy)
    more = "; drop the old one once its receiver knows the new" if len(keys) > 1 else ""
    return Finding(f"webhook {name}: secret", "ok", f"{len(keys)} secret(s) sign, from {receiver.secret}{more}")


def _reached(name: str, receiver: WebhookSettings) -> Finding:
    from hybridmu.runtime.webhooks.post import out_of_reach  # as above

    host = receiver.address.hostname  # and no more of the address, which may be a secret
    if problem := out_of_reach(receiver):
        return Finding(
            f"webhook {name}: reach",
            "wrong",
            f"{host} can't be reached from here: {problem}",
            f"start the receiver, or correct webhooks.{name} (docs/webhooks.md); what it is told waits meanwhile",
        )
    how = "by TLS, with a valid certificate" if receiver.address.scheme == "https" else "on this machine, without TLS"
    return Finding(
        f"webhook {name}: reach", "ok", f"{host} can be reached {how}; `hybridmu webhooks test` sends an event"
    )


def _backlog(name: str, counts: ReceiverCounts | None) -> Iterator[Finding]:
    if counts is None:
        return
    about, problem = f"webhook {name}: backlog", f"; the last failure: {counts.problem}" if counts.problem else ""
    hours = 0.0 if counts.oldest_at is None else max(0.0, time.time() - counts.oldest_at) / 3600
    if counts.dead:
        yield Finding(
            about,
            "wrong",
            f"{counts.dead} event(s) were given up, {counts.waiting} more wait{problem}",
            f"mend the receiver, then hybridmu webhooks retry --receiver {name}; or hybridmu webhooks drop {name}",
        )
    elif counts.waiting:
        yield Finding(
            about,
            "note" if counts.problem else "ok",
            f"{counts.waiting} event(s) wait, the oldest for {hours:.1f} h{problem}",
            "they are tried again by themselves" if counts.problem else "",
        )
    else:
        yield Finding(about, "ok", "it was told everything")
