"""First part of the demo: a closed-form model forgets a person, then many, while it is served."""

from __future__ import annotations

from functools import partial
from typing import Any

from hybridmu.demo.ending import certificates, purge, rows_left
from hybridmu.demo.load import Clients, serving
from hybridmu.demo.person import asked_of, chosen, compared
from hybridmu.demo.reviews import Asked, asked
from hybridmu.demo.screen import Phases
from hybridmu.demo.timed_deletions import forget, prove, train
from hybridmu.system.system import System

DEADLINE_SECONDS = 3600.0
ONE = "one person"


def many(count: int) -> str:
    """Return what the demo calls the deletion of many people."""
    return f"{count:,} people at once"


def by_sums(system: System, bar: Phases) -> tuple[Asked, dict[str, Any]]:
    """Return who was forgotten, and the report of a closed-form model from its training to the certificates.

    Args:
        system: A new system.
        bar: The demo's bar.
    """
    training = train(system, bar, "sums")
    bar.begin("looking for a person")
    people = asked(system.settings, partial(chosen, system))
    with serving(system, bar, asked_of(system, people.rows)) as clients:
        report = while_served(system, bar, people, clients)
    return people, {"training": training, **report}


def while_served(system: System, bar: Phases, people: Asked, clients: Clients) -> dict[str, Any]:
    """Return what became of the deletions of a person, and of many, while clients ask.

    Args:
        system: A trained system.
        bar: The demo's bar.
        people: Who asks to be forgotten.
        clients: Ask about `people.rows`; stopped at the end.
    """
    data = system.settings.data
    ids = people.ids(data.id)
    before = rows_left(system, ids)
    # A purge takes longer than these deletions, and would be in the way of the second.
    hold = system.hold("both deletions come first")["number"]
    one = forget(system, bar, ONE, [people.person[data.id]], DEADLINE_SECONDS)
    one["proof"] = prove(system, bar, ONE)
    name = many(len(people.people))
    more = forget(system, bar, name, people.people, DEADLINE_SECONDS)
    more["proof"] = prove(system, bar, name)
    system.lift(hold)
    requests = {deletion["request_id"]: deletion["name"] for deletion in (one, more)}
    purged = purge(system, bar, [*requests], ids, before)
    clients.wait()
    clients.stop()
    return {
        "person": people.person,
        "deletions": [one, more],
        "answers": compared(people.rows, data.label, clients.answers, (one["version_before"], one["version_after"])),
        "serving": clients.report(system.registry.version().version),
        "purge": purged,
        "certificates": certificates(system, bar, requests),
        "deadline_seconds": DEADLINE_SECONDS,
    }
