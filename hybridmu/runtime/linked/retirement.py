"""The end of a model: every request of its own delivered, then all of it deleted, then the others forget it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

from hybridmu.config import Settings
from hybridmu.errors import StateError
from hybridmu.runtime.linked.forwarder import Forwarder
from hybridmu.runtime.linked.peer import Peer
from hybridmu.runtime.purge.decommission import Decommission
from hybridmu.store.ledger.database import Database
from hybridmu.store.storage.storage import Storage

# Emptying storage takes long, and nobody renews the lease meanwhile.
_SECONDS = 3600.0


def decommission(
    settings: Settings, storage: Storage, database: Database, reason: str, caller: str, *, deliver: bool = False
) -> dict[str, Any]:
    """Stop serving, empty storage and the ledger, and look; certificates and the guard stay.

    Args:
        settings: The system's configuration.
        storage: Its storage.
        database: Its database.
        reason: Why, for the log.
        caller: Who.
        deliver: Tell linked models first of every request that they have not got, also of those not begun yet.

    Returns:
        How many files went and what stays. Repeating it after a crash finishes what was begun.

    Raises:
        StateError: Another coordinator is at work, a legal hold is in force, or a linked model has not got all
            requests.
    """
    lease, replicas = database.lease, database.replicas
    token = lease.acquire(f"decommission/{os.getpid()}/{uuid.uuid4().hex[:6]}", _SECONDS)
    if token is None:
        raise StateError("a coordinator is at work", got=str(lease.holder()), remedy="stop it first")
    try:
        over = Decommission(storage, database)
        over.refuse_held()  # before anything of it can't be taken back
        if deliver:
            database.forwards.begin()
            forwarder = Forwarder(settings, database)
            while forwarder.step(patient=False):
                pass
        over.announce(token, reason, caller)
        while replicas.live():  # they see it at their next poll, or their lease runs out
            time.sleep(0.1)
        return over.empty(token)
    finally:
        lease.release(token)


def retire(model: Peer, others: Sequence[Peer], reason: str, caller: str) -> dict[str, Any]:
    """Decommission a model, and let the others forget their links to it.

    Args:
        model: Which.
        others: The models that are linked with it. One that is not among them finds out when it has a request for it.
        reason: Why, for the log.
        caller: Who.

    Returns:
        What `decommission` returns; repeated after a crash, it finishes what was begun.

    Raises:
        StateError: As `decommission`.
    """
    done = decommission(model.settings, model.lake.storage, model.database, reason, caller, deliver=True)
    end_links(model.system, others, f"that model is retired: {reason}")
    return done


def end_links(system: str, others: Sequence[Peer], reason: str) -> None:
    """Let models forget their links to another one; what it was still to be told of is not waited for any more."""
    for other in others:
        other.links.retire(system, reason)
