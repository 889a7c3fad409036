"""Ways to train that are tried, and offers that no other one beats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridmu.planning.price_list import FEWEST_ROWS, Candidate, Offer, Price, candidates, front, with_changes


def offer(name: str, accuracy: float, cost: float, person: float | None = None) -> Offer:
    whom = None if person is None else Price(person, person)
    price = Price(cost, cost)
    return Offer(Candidate(name, {}), accuracy, 0.5, accuracy, 1.0, price, whom, price, "exact", cost)


@given(st.integers(1, 5000), st.none() | st.just({"optimizer": {}}), st.integers(1, 32), st.integers(1, 9))
def test_no_shard_is_too_small_no_name_comes_twice_and_the_own_way_is_first(rows, other, shards, slices):
    found = candidates(rows, (shards, slices), other)
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    assert all(rows // one.changes["sisa"]["shards"] >= FEWEST_ROWS for one in found)
    if rows // shards >= FEWEST_ROWS:
        assert names[0] == f"S{shards}-R{slices}"
    assert any(name.endswith("-adamw") for name in names) == (bool(names) and other is not None)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_offer_beats(pairs):
    offers = [offer(str(number), accuracy / 5, cost) for number, (accuracy, cost) in enumerate(pairs)]
    found = front(offers)
    assert found, "the best is always there"
    for one in offers:
        beaten = any(
            (a.score >= one.score and a.dearness < one.dearness) or (a.score > one.score and a.dearness <= one.dearness)
            for a in offers
        )
        assert (one.candidate.name in found) != beaten


def test_where_there_are_people_they_are_what_counts():
    assert offer("a", 0.5, 1.0, person=9.0).dearness == 9.0
    assert offer("a", 0.5, 1.0).dearness == 1.0


def test_changes_leave_the_document_as_it_was():
    document = {"sisa": {"shards": 8, "seed": 3}, "data": None}
    made = with_changes(document, {"sisa": {"shards": 2}, "data": {"standardize": True}})
    assert made == {"sisa": {"shards": 2, "seed": 3}, "data": {"standardize": True}}
    assert document["sisa"] == {"shards": 8, "seed": 3}
