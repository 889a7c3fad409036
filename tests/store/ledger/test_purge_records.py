"""Records of purges, on both kinds of database."""

from __future__ import annotations

import dataclasses
import time

import pytest
from sqlalchemy import event

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ledger.progress import Progress
from hybridmu.store.ledger.purge.purge_evidence import PurgeEvidence
from hybridmu.store.ledger.purge.purge_records import Deletions, Passed
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.types import Proof, RequestNeed, RequestState, ShardOutcome, ShardPlan
from hybridmu.types.surveys import Survey
from tests.support import key, rows_of

NOW = 10**9


@pytest.fixture
def deletions(engine) -> Deletions:
    return Deletions(engine)


@pytest.fixture
def evidence(engine) -> PurgeEvidence:
    return PurgeEvidence(engine)


@pytest.fixture
def controls(engine) -> Controls:
    return Controls(engine)


@pytest.fixture
def life(engine, ledger, lease):
    """A trained ledger of three shards, and how requests get on in it."""
    return Life(engine, ledger, lease)


class Life:
    def __init__(self, engine, ledger, lease) -> None:
        self.ledger, self.registry, self.token = ledger, Registry(engine), lease.acquire("me", 1e6)
        self.replicas, self.progress = Replicas(engine), Progress(engine)
        self.registry.publish_training(self.token, [outcome(shard, 0) for shard in range(3)])

    def accept(self, *keys, **options) -> str:
        return self.ledger.accept(keys, **options).request_id

    def remove(self, *names: str, exact: bool = True, shards=None) -> None:
        """Publish what the requests wait for, or only some of their shards."""
        upto: dict[int, int] = {}
        for needs in self.ledger.shards_of(names).values():
            for shard, seq in needs.items():
                if shards is None or shard in shards:
                    upto[shard] = max(seq, upto.get(shard, 0))
        pairs = [(plan(shard), outcome(shard, seq, exact)) for shard, seq in sorted(upto.items())]
        done = names if shards is None else ()
        self.registry.publish(self.token, f"round-{time.monotonic_ns()}", done, pairs)
        self.progress.mark_served(self.token, self.replicas.confirmed())


def outcome(shard: int, upto: int, exact: bool = True) -> ShardOutcome:
    strategy = "retrain" if exact else "dpus"
    return ShardOutcome("job", shard, strategy, f"{shard}/b{upto}", exact, upto, 10, 1, 30, 0.5, head="00")


def plan(shard: int) -> ShardPlan:
    return ShardPlan(shard, "retrain", 1, 2, 25, 0.5, 0.4, (0.3, 0.5), (), "time", ("why",))


def guarded(number: int, **place):
    return dataclasses.replace(key(number, **place), mac=number.to_bytes(32, "big"), mac_key="k")


def due(deletions: Deletions, retention: float = 0.0, holds=(), confirmed: int = NOW) -> dict[str, str | None]:
    return {item.request_id: item.blocked for item in deletions.purgeable(confirmed, retention, 60.0, holds)}


# ---------------------------------------------------------------------- what is due


def test_a_request_is_due_once_it_is_served_and_exact(life, deletions):
    request = life.accept(key(1), key(2, 1))
    assert due(deletions) == {}
    life.remove(request, exact=False)
    assert life.ledger.request(request).state == RequestState.SERVED
    assert due(deletions) == {}, "it still owes the exact removal"
    life.remove(request, shards={0})
    assert due(deletions) == {}, "of every shard"
    life.remove(request, shards={1})
    assert due(deletions) == {request: None}
    assert due(deletions, confirmed=life.registry.served() - 1) == {}, "a replica may answer with the approximate one"
    assert [item.shards for item in deletions.purgeable(NOW, 0, 0, [])] == [frozenset({0, 1})]


def test_retention_delays_but_never_past_the_deadline(life, deletions):
    free, bound = life.accept(key(1)), life.accept(key(2), deadline_seconds=1000.0)
    life.remove(free, bound)
    assert due(deletions, retention=930.0).keys() == {free, bound}
    assert all("old versions are kept until 20" in why for why in due(deletions, retention=930.0).values())
    assert due(deletions, retention=1e20)[free].startswith("old versions are kept until 9999"), "for good, nearly"
    hurried = life.accept(key(3), deadline_seconds=50.0)
    life.remove(hurried)
    assert due(deletions, retention=1e20)[hurried] is None, "its deadline is within the margin"


def test_what_waits_and_says_so_costs_nothing(life, deletions, engine):
    names = [life.accept(key(number)) for number in range(1, 60)]
    life.remove(*names)
    waiting = due(deletions, retention=1e6)
    assert len(waiting) == 59
    deletions.note(life.token, waiting)
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2].split()[0]))
    assert due(deletions, retention=1e6) == {}
    assert asked.count("SELECT") == 1, "and it reads none of the rows"
    assert len(due(deletions, retention=0.0)) == 59


def test_a_hold_blocks_visibly_until_it_is_lifted(life, deletions, controls):
    one, two = life.accept(key(1)), life.accept(key(2))
    life.remove(one, two)
    hold = controls.hold(one, "a lawsuit", "legal")
    assert due(deletions, holds=controls.holds()) == {one: f"legal hold {hold.number}", two: None}
    deletions.note(life.token, due(deletions, holds=controls.holds()))
    controls.lift(hold.number)
    assert due(deletions, holds=controls.holds())[one] is None
    everything = controls.hold(None, "an audit", "legal")
    found = due(deletions, holds=controls.holds())
    assert set(found.values()) == {f"legal hold {everything.number} on everything"}
    deletions.note(life.token, found)
    assert due(deletions, holds=controls.holds()) == {}
    controls.lift(everything.number)
    assert due(deletions, retention=1e6, holds=controls.holds()).keys() == {one, two}, (
        "what is noted is brought up to date"
    )


def test_a_hold_reaches_a_request_that_named_the_same_rows(life, deletions, controls):
    held = life.accept(key(1))
    other = life.accept(key(1), key(2))
    apart = life.accept(key(1), key(3, 1), key(2), deadline_seconds=1.0)
    life.remove(held, other, apart)
    hold = controls.hold(held, "a lawsuit", "legal")
    found = due(deletions, holds=controls.holds())
    assert found[other] == f"legal hold {hold.number} on a request that may name the same rows"
    assert found[held] == f"legal hold {hold.number}"


# ---------------------------------------------------------------------- evidence and surveys


def test_requests_are_unproven_shard_by_shard(life, evidence):
    one, two = life.accept(key(1)), life.accept(key(2), key(3, 1))
    life.remove(one, two, exact=False)
    life.remove(one, two, shards={0})
    # `two` is not exact on shard 1 yet, but once the rows of `one` are purged nobody could prove it on shard 0.
    assert evidence.unproven({0, 1, 2}) == {0: (RequestNeed(one, 1), RequestNeed(two, 2)), 1: (), 2: ()}
    evidence.save(life.token, 0, [Proof(one, "{}")], [])
    assert evidence.unproven({0, 1}) == {0: (RequestNeed(two, 2),), 1: ()}
    life.remove(two, shards={1})
    assert evidence.unproven({1}) == {1: (RequestNeed(two, 3),)}


def test_earlier_findings_stay_and_surveys_add_up(life, engine, evidence):
    request = life.accept(key(1))
    digest, raw = bytes(range(16)), b"customer-4711"
    first = Survey(frozenset({("id", digest)}), frozenset({("train", digest, digest)}), frozenset({raw}))
    evidence.save(life.token, 0, [Proof(request, "first")], [(request, first)])
    evidence.save(life.token, 0, [Proof(request, "second", "why")], [(request, Survey(raw=frozenset({b"x"})))])
    evidence.save(life.token, 1, [Proof(request, "other", "no good")], [(request, Survey())])
    evidence.save(life.token, 2, [Proof(request, "", "not even made")], [])
    assert evidence.documents(request) == ["first", "other"]
    assert evidence.refused([request]) == {request: "no good"}
    merged = Survey(first.keys, first.rows, frozenset({raw, b"x"}))
    assert evidence.surveys([request]) == {(request, 0): merged, (request, 1): Survey()}
    assert evidence.surveyed([request]) == {(request, 0), (request, 1)}
    stored = b"".join(bytes(row.document) for row in rows_of(engine, t.surveys))
    for needle in (digest, raw, digest.hex().encode()):
        assert needle not in stored, "the search of the database must not find the survey itself"


def test_history_reaches_back_as_far_as_evidence_needs(life):
    names = [life.accept(key(number, number % 2)) for number in range(1, 6)]
    for name in names:
        life.remove(name)
    found = life.registry.history({0: 4, 1: 3, 2: 1})
    assert {shard: [past.sub.exact_upto for past in pasts] for shard, pasts in found.items()} == {
        0: [2, 4],
        1: [1, 3, 5],
        2: [0],
    }
    assert [past.version for past in found[1]] == [2, 4, 6]
    assert life.registry.history(dict.fromkeys(range(1500), 1))[0][0].version == 1, "any number of shards"


# ---------------------------------------------------------------------- the last marks


def test_emptied_tombstones_keep_their_counts(life, deletions):
    one, two = life.accept(key(1), key(2, 1)), life.accept(key(3))
    life.remove(one, two)
    before = life.ledger.counts(), life.registry.version()
    gone = deletions.without_rows([one], {})
    assert gone == {1, 2}
    deletions.scrub(life.token, gone, [one])
    assert (life.ledger.counts(), life.registry.version()) == before
    assert {shard: [s.key for s in stones] for shard, stones in life.ledger.tombstones().items()} == {0: [key(3).key]}
    assert deletions.exact_stones({0, 1})[1] == []
    assert deletions.without_rows([one], {}) == set()
    again = life.accept(key(1))
    assert again != one, "a row that came back can be forgotten again"


def test_tombstones_of_the_same_rows_are_emptied_with_them(life, deletions):
    member = key(1)
    first = life.accept(member)
    life.accept(key(7, kind="group"))
    gone = {0: {("group", key(7).key), ("id", member.key)}, 1: {("id", key(2).key)}}
    life.accept(key(2))  # on shard 0, not 1
    assert deletions.without_rows([], gone) == {1, 2}
    assert deletions.without_rows([first], {}) == {1}


def test_a_purge_that_passed_is_remembered_until_its_certificates_are_written(life, deletions, evidence):
    one, two = life.accept(guarded(1)), life.accept(guarded(2))
    life.remove(one, two)
    evidence.save(life.token, 0, [Proof(one, "{}"), Proof(two, "{}")], [(one, Survey()), (two, Survey())])
    deletions.note(life.token, {one: "not purged: yet"})
    assert deletions.passed() is None
    passed = Passed(((one, 1), (two, 2)), {"rows": 2}, 1000.25)
    deletions.pass_(life.token, passed)
    assert deletions.passed() == passed
    assert evidence.surveys([one, two]) == {}
    deletions.finish(life.token, one, 1, passed.purged_at)
    done = life.ledger.request(one)
    assert (done.state, done.certificate, done.purged_at, done.reason) == (RequestState.PURGED, 1, 1000.25, None)
    assert (evidence.documents(one), evidence.documents(two)) == ([], ["{}"])
    assert [key.mac for key in evidence.revoked_keys(one)] == [(1).to_bytes(32, "big")], "the guard remembers"
    deletions.finish(life.token, two, 2, passed.purged_at)
    deletions.end(life.token)
    assert deletions.passed() is None
    assert due(deletions) == {}


def test_forgetting_what_is_purged_can_be_followed_to_the_request_that_did_it(life, deletions):
    one = life.accept(guarded(1))
    life.remove(one)
    deletions.scrub(life.token, deletions.without_rows([one], {}), [one])
    deletions.finish(life.token, one, 1, 5.0)
    again = life.ledger.accept([], purged=[guarded(1).mac], caller="another")
    assert (again.request_id == one, again.state, again.certificate) == (False, RequestState.PURGED, None)
    assert life.ledger.relies_on(again.request_id) == {one: 1}
    both = life.ledger.accept([key(2)], purged=[guarded(1).mac])
    assert (both.request_id != one, both.already_forgotten) == (True, 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda d, token: PurgeEvidence(d._write).save(token, 0, [Proof("r", "{}")], []),
        lambda d, token: d.scrub(token, {1}, []),
        lambda d, token: d.pass_(token, Passed((("r", 1),), {}, 1.0)),
        lambda d, token: d.finish(token, "r", 1, 1.0),
        lambda d, token: d.end(token),
        lambda d, token: d.end_joined(token, ["r"]),
        lambda d, token: d.note(token, {"r": "why"}),
    ],
)
@pytest.mark.sampled
def test_a_stale_coordinator_marks_nothing(life, deletions, engine, write):
    life.accept(key(1))
    tables = (t.requests, t.tombstones, t.meta, t.evidence, t.surveys)
    before = [rows_of(engine, table) for table in tables]
    with pytest.raises(LeaseLostError):
        write(deletions, life.token - 1)
    assert [rows_of(engine, table) for table in tables] == before


def test_any_number_of_requests(life, deletions, engine, evidence):
    numbers = range(1, 1001)
    request = {
        "state": "SERVED",
        "strategy": "auto",
        "keys": 1,
        "received_at": 1.0,
        "exact_at": 1.0,
        "version_exact": 1,
    }
    rows = [{"request_id": f"r{n}", "shard": n % 3} for n in numbers]
    stone = {"kind": "id", "slice": 1, "rows": 1}
    with engine.begin() as connection:
        connection.execute(t.requests.insert(), [{**request, "request_id": f"r{n}"} for n in numbers])
        connection.execute(t.needs.insert(), [{**row, "upto": n} for n, row in zip(numbers, rows, strict=True)])
        stones = [{**row, **stone, "key": key(n).key} for n, row in zip(numbers, rows, strict=True)]
        connection.execute(t.tombstones.insert(), stones)
    names = [row["request_id"] for row in rows]
    assert list(due(deletions)) == names
    assert len(deletions.without_rows(names, {0: {("id", key(n).key) for n in numbers}})) == 1000
    assert sum(map(len, deletions.stones_of(names).values())) == 1000
    assert evidence.refused(names) == evidence.surveys(names) == {}
