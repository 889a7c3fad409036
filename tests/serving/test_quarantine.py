"""Sub-models that open deletions take out of the vote, and when a ledger may say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.serving.quarantine import quarantine
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.types import Touched
from tests.store.ledger.test_registry import outcome, plan
from tests.support import key

SHARDS = st.integers(0, 5)
NEEDS = st.lists(st.dictionaries(SHARDS, st.just(0), min_size=1, max_size=4), max_size=6)


@given(NEEDS, st.dictionaries(SHARDS, st.integers(0, 20), min_size=1), st.integers(1, 6))
def test_what_is_said_to_be_quarantined_has_no_influence_and_enough_sub_models_vote(asked, removed, min_voters):
    """Requests name shards; each shard of a request needs the tombstone of its own that comes last."""
    seq, requests = 0, []
    for shards in asked:
        needs = {}
        for shard in shards:
            seq += 1
            needs[shard] = seq
        requests.append(needs)
    everything = [(shard, upto) for needs in requests for shard, upto in needs.items()]
    touched = []
    for shard in {shard for shard, _ in everything}:
        mine = [upto for each, upto in everything if each == shard]
        touched.append(Touched(shard, min(mine), max(mine)))
    found = quarantine(touched, removed, min_voters)
    voting = removed.keys() - found.withheld
    assert found.withheld <= removed.keys()
    assert len(voting) >= min(min_voters, len(removed))
    for shard in found.withheld:
        assert any(each == shard and upto > removed[shard] for each, upto in everything), "withheld for nothing"
    for needs in requests:
        influence = [shard for shard, upto in needs.items() if shard in voting and upto > removed[shard]]
        if max(needs.values()) <= found.upto:
            assert not influence
    if len(voting) > min_voters:  # the bound was not reached: nothing is left
        assert found.upto == seq


def test_a_request_is_quarantined_when_every_live_replica_says_so(engine, ledger, lease):
    registry, replicas = Registry(engine), Replicas(engine)
    token = lease.acquire("me", 60)
    registry.publish_training(token, [outcome(shard, 0) for shard in range(3)])
    assert replicas.touched() == []
    first = ledger.accept([key(1, 1), key(2, 1)]).request_id
    second = ledger.accept([key(3, 1)]).request_id
    needs = ledger.shards_of([first, second])
    last = {name: max(of.values()) for name, of in needs.items()}
    assert {each.shard for each in replicas.touched()} == {shard for of in needs.values() for shard in of}
    replicas.register("a", 1, 60, last[second])
    assert ledger.request(first).quarantined_at is not None  # alone, it speaks for all
    third = ledger.accept([key(4, 1)]).request_id
    upto = max(ledger.shards_of([third])[third].values())
    replicas.register("slow", 1, 60, last[first])
    replicas.register("a", 1, 60, upto)
    assert ledger.request(third).quarantined_at is None
    replicas.register("slow", 1, -1, last[first])  # expired: it does not answer
    replicas.register("a", 1, 60, upto)
    assert ledger.request(third).quarantined_at is not None
    replicas.register("holds sub-models", 1, 60, role="votes")  # it answers nobody
    assert replicas.answering() == 1
    fourth = ledger.accept([key(5, 1)]).request_id
    replicas.register("a", 1, 60, max(ledger.shards_of([fourth])[fourth].values()))
    assert ledger.request(fourth).quarantined_at is not None
    before = ledger.request(first).quarantined_at
    replicas.register("a", 1, 60, upto)
    assert ledger.request(first).quarantined_at == before, "the first moment counts"


@pytest.mark.parametrize("how", ["applied", "cancelled"])
def test_what_is_done_or_taken_back_touches_nothing(engine, ledger, lease, how, progress):
    registry, replicas = Registry(engine), Replicas(engine)
    token = lease.acquire("me", 60)
    registry.publish_training(token, [outcome(shard, 0) for shard in range(3)])
    name = ledger.accept([key(1, 1)]).request_id
    ((shard, upto),) = ledger.shards_of([name])[name].items()
    assert replicas.touched() == [Touched(shard, upto, upto)]
    if how == "cancelled":
        ledger.cancel(name)
        assert replicas.touched() == []
        return
    registry.publish(token, "round", [name], [(plan(shard), outcome(shard, upto))])
    removed = {sub.shard: sub.removed_upto for sub in registry.version().shards}
    assert quarantine(replicas.touched(), removed, 1).withheld == frozenset()
    progress.mark_served(token, replicas.confirmed())
    assert replicas.touched() == []
