"""Second part of the demo: a network forgets the same people, by an exact retrain (PRS) and by an update (DPUS)."""

from __future__ import annotations

from typing import Any

from hybridmu.core.strategies import asks_exact
from hybridmu.core.strategies.dpus_optimised import DpusOptimised
from hybridmu.demo.by_sums import DEADLINE_SECONDS, ONE, many
from hybridmu.demo.ending import certificates, purge, repair, rows_left
from hybridmu.demo.reviews import Asked
from hybridmu.demo.screen import Phases
from hybridmu.demo.timed_deletions import forget, prove, train
from hybridmu.system.system import System


def by_network(system: System, bar: Phases, people: Asked) -> dict[str, Any]:
    """Return the report of a network from its training to the certificates.

    Args:
        system: A new system.
        bar: The demo's bar.
        people: Who asks to be forgotten.
    """
    name = system.settings.data.id
    training, ids = train(system, bar, "network"), people.ids(name)
    before = rows_left(system, ids)
    # The gap of an update is measured on the rows themselves, so they must not be purged before.
    hold = system.hold("the proofs are made first")["number"]
    one = forget(system, bar, ONE, [people.person[name]], DEADLINE_SECONDS)
    # Asked for: left to itself, the planner retrains shards as small as these, and nothing would need repair.
    more = forget(system, bar, many(len(people.people)), people.people, DEADLINE_SECONDS, strategy=DpusOptimised.name)
    gap = prove(system, bar, "the update")
    seconds = repair(system, bar)
    proof = prove(system, bar, "the repair")
    system.lift(hold)
    requests = {deletion["request_id"]: deletion["name"] for deletion in (one, more)}
    return {
        "training": training,
        "deletions": [one, more],
        "gap": gap,
        "gap_budget": system.settings.policy.quality_budget,
        "updated_shards": sum(not asks_exact(entry["strategy"]) for entry in more["shards"]),
        "repair_seconds": seconds,
        "proof": proof,
        "purge": purge(system, bar, [*requests], ids, before),
        "certificates": certificates(system, bar, requests),
    }
