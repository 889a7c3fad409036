"""Several callers who ask for the same rows: each has a request of its own, and nobody sees or undoes another's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from hybridmu.errors import AdmissionError, RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.progress import Progress
from hybridmu.store.ledger.purge.purge_records import Deletions
from hybridmu.types import ForgetRequest, NamedKey, Origin, RequestState, ResolvedKey, RowKey
from tests.store.ledger.test_lifecycle import group_of, guarded, member, revoked_rows
from tests.support import key, rows_of


def macs(engine) -> dict[str, list[int]]:
    """Return request → the numbers of the keys whose guard entry is its own."""
    found: dict[str, list[int]] = {}
    for row in rows_of(engine, t.guard):
        found.setdefault(row.request_id, []).append(int.from_bytes(row.mac, "big"))
    return found


def test_two_callers_of_one_row_have_a_request_each(ledger, engine):
    first = ledger.accept([guarded(1)], caller="a", deadline_seconds=60, strategy="dpus")
    second = ledger.accept([guarded(1)], caller="b", deadline_seconds=600)
    assert (second.caller, second.state, second.keys, second.already_forgotten) == ("b", RequestState.RECEIVED, 0, 1)
    assert second.request_id != first.request_id
    assert second.deadline_at == pytest.approx(second.received_at + 600)
    assert ledger.requests(caller="b") == [second]
    assert first == ledger.request(first.request_id), "the first knows nothing of the second"
    assert len(rows_of(engine, t.tombstones)) == 1, "the row is revoked once"
    assert ledger.shards_of([second.request_id]) == {second.request_id: {0: 1}}
    shown = " ".join(map(str, dataclasses.astuple(second)))
    assert first.request_id not in shown
    assert "'a'" not in repr(second)


def test_a_caller_who_asks_again_is_answered_with_its_own_request(ledger):
    first = ledger.accept([guarded(1), guarded(2)], caller="a")
    second = ledger.accept([guarded(1)], caller="b")
    assert ledger.accept([guarded(1)], caller="b") == second
    assert ledger.accept([guarded(1)], caller="a") == first
    more = ledger.accept([guarded(2)], caller="b")
    assert more.request_id not in {first.request_id, second.request_id}, "its first one names another row"
    assert ledger.accept([guarded(1), guarded(2)], caller="b").request_id not in {second.request_id, more.request_id}


def test_limits_count_what_joins(ledger):
    limits = Limits(open_requests=1)
    ledger.accept([guarded(1)], caller="a")
    ledger.accept([guarded(1)], caller="b", limits=limits)
    with pytest.raises(AdmissionError, match="'b' has too many"):
        ledger.accept([guarded(1), guarded(2)], caller="b", limits=limits)


# ---------------------------------------------------------------------- cancelling


def test_a_cancelled_request_leaves_others_what_they_asked_for(ledger, engine):
    first = ledger.accept([guarded(1), guarded(2)], caller="a")
    second = ledger.accept([guarded(1)], caller="b", deadline_seconds=60)
    assert ledger.cancel(first.request_id, "a").state is RequestState.CANCELLED
    heir = ledger.request(second.request_id)
    assert heir == dataclasses.replace(second, keys=1, already_forgotten=0)
    [stone] = ledger.tombstones()[0]
    assert (stone.request_id, stone.key, stone.rows) == (second.request_id, key(1).key, 1)
    assert ledger.shards_of([second.request_id]) == {second.request_id: {0: stone.seq}}
    assert ledger.relies_on(second.request_id) == {}
    assert macs(engine) == {second.request_id: [1]}
    assert rows_of(engine, t.claims) == rows_of(engine, t.named) == []
    assert ledger.cancel(second.request_id, "b").state is RequestState.CANCELLED
    assert (ledger.tombstones(), macs(engine)) == ({}, {})


def test_cancelling_what_joined_leaves_the_first_as_it_was(ledger, engine):
    first = ledger.accept([guarded(1)], caller="a")
    second = ledger.accept([guarded(1), guarded(2)], caller="b")
    ledger.cancel(second.request_id)
    assert ledger.request(first.request_id) == first
    assert [stone.request_id for stone in ledger.tombstones()[0]] == [first.request_id]
    assert macs(engine) == {first.request_id: [1]}
    assert ledger.cancel(first.request_id).state is RequestState.CANCELLED
    for table in (t.tombstones, t.needs, t.guard, t.named, t.claims, t.reliances):
        assert rows_of(engine, table) == []


@pytest.mark.sampled
def test_rows_of_a_group_stay_forgotten_for_who_named_them(ledger, engine):
    whole = ledger.accept([dataclasses.replace(group_of(9, 1, 2, 3), mac=b"g" * 32, mac_key="k")], caller="a")
    one = ledger.accept([member(1, 9)], caller="b")
    ledger.cancel(whole.request_id)
    assert revoked_rows(ledger) == 1
    assert len(ledger.assess([member(2, 9)]).fresh) == 1
    assert ledger.assess([member(1, 9)]).fresh == ()
    assert [stone.request_id for stone in ledger.tombstones()[0]] == [one.request_id]


def test_nothing_is_waited_for_in_a_circle(ledger, engine, lease):
    """Each of two requests revoked a row of the other, and both relied on a third that was cancelled."""
    first = ledger.accept([member(1, 9)], caller="a")
    second = ledger.accept([member(1, 9), member(2, 9)], caller="b")
    third = ledger.accept([group_of(9, 1, 2, 3)], caller="c")
    ledger.cancel(first.request_id)
    assert ledger.relies_on(second.request_id) == {}
    assert ledger.relies_on(third.request_id) == {second.request_id: None}
    assert revoked_rows(ledger) == 3


def test_what_a_begun_request_relies_on_is_begun_too(ledger, engine, lease, progress):
    first = ledger.accept([guarded(1)], caller="a")
    second = ledger.accept([guarded(1), guarded(2, shard=5)], caller="b")
    third = ledger.accept([guarded(2, shard=5), guarded(3, shard=6)], caller="c")
    progress.take(lease.acquire("me", 60), [6])
    states = {request.caller: request.state for request in ledger.requests()}
    assert states == {"a": RequestState.PLANNED, "b": RequestState.PLANNED, "c": RequestState.PLANNED}
    assert rows_of(engine, t.claims) == [], "nothing can be cancelled any more"
    for request in (first, second, third):
        with pytest.raises(StateError, match="can't be cancelled any more"):
            ledger.cancel(request.request_id)


def test_a_claim_is_kept_only_while_it_may_be_called_for(ledger, engine, lease, progress):
    ledger.accept([guarded(1)], caller="a")
    token = lease.acquire("me", 60)
    progress.take(token, None)
    ledger.accept([guarded(1)], caller="b")
    assert rows_of(engine, t.claims) == [], "what is begun can't be cancelled"
    ledger.accept([guarded(2)], caller="a")
    ledger.accept([guarded(2)], caller="b")
    assert len(rows_of(engine, t.claims)) == 1
    assert key(2).key not in rows_of(engine, t.claims)[0].document
    progress.mark_planned(token, [ledger.requests(caller="a")[1].request_id], "round", 1)
    assert rows_of(engine, t.claims) == []


# ---------------------------------------------------------------------- rows that are purged


@pytest.fixture
def purged(ledger, engine) -> ForgetRequest:
    """A request whose rows are gone."""
    request = ledger.accept([guarded(1)], caller="a")
    with engine.begin() as connection:
        values = {"state": "PURGED", "purged_at": 9.0, "exact_at": 8.0, "certificate": 7}
        connection.execute(t.requests.update().values(**values))
        connection.execute(t.tombstones.update().values(key=None))
    return ledger.request(request.request_id)


def test_rows_that_are_purged_end_a_request_at_once(ledger, purged):
    found = ledger.accept([], purged=[guarded(1).mac], caller="b", strategy="retrain")
    assert (found.caller, found.state, found.keys, found.already_forgotten) == ("b", RequestState.PURGED, 0, 1)
    assert (found.certificate, found.reason) == (None, "its rows were forgotten and purged before")
    assert found.purged_at == found.received_at != purged.purged_at
    assert ledger.relies_on(found.request_id) == {purged.request_id: 7}, "who may see all callers' can follow it"
    assert ledger.accept([], purged=[guarded(1).mac], caller="b") == found
    assert ledger.accept([], purged=[guarded(1).mac], caller="a") == purged


def test_a_row_that_is_gone_but_not_purged_yet_is_waited_for(ledger, engine):
    first = ledger.accept([guarded(1, shard=3)], caller="a")
    with engine.begin() as connection:  # a purge is between its stages
        connection.execute(t.requests.update().values(state="SERVED"))
        connection.execute(t.tombstones.update().values(key=None))
    second = ledger.accept([], purged=[guarded(1).mac], caller="b")
    assert (second.state, second.purged_at) == (RequestState.RECEIVED, None)
    assert ledger.shards_of([second.request_id]) == {second.request_id: {3: 1}}
    assert ledger.relies_on(second.request_id) == {first.request_id: None}


def test_some_rows_purged_and_some_not(ledger, purged):
    found = ledger.accept([guarded(2)], purged=[guarded(1).mac], caller="b")
    assert (found.state, found.keys, found.already_forgotten) == (RequestState.RECEIVED, 1, 1)
    assert list(ledger.relies_on(found.request_id)) == [purged.request_id]


def test_a_linked_model_is_a_caller_of_its_own(ledger, engine):
    here = ledger.accept([guarded(1)], caller="a")
    there = ledger.accept([guarded(1)], caller="model x", origin=Origin("x", "x", "r-1", 5.0))
    assert (there.request_id == here.request_id, there.deadline_at, there.origin) == (False, 5.0, "x:r-1")
    again = ledger.accept([guarded(1)], caller="model x", origin=Origin("x", "x", "r-2", 3.0))
    assert (again.request_id, again.deadline_at) == (there.request_id, 3.0)
    impostor = ledger.accept([guarded(1)], caller="model x")
    assert impostor.request_id not in {here.request_id, there.request_id}
    with pytest.raises(StateError, match="linked model"):
        ledger.cancel(there.request_id)
    ledger.cancel(here.request_id)
    assert [stone.request_id for stone in ledger.tombstones()[0]] == [there.request_id]


def test_what_a_linked_model_alone_has_is_asked_of_it_for_everybody(ledger, engine):
    absent = NamedKey("id", b"x" * 16, b"y" * 32, "k")
    with engine.begin() as connection:
        connection.execute(t.links.insert().values(system="s", name="s", settings="{}", linked_at=1.0))
    first = ledger.accept([guarded(1)], absent=[absent], caller="a")
    second = ledger.accept([guarded(1)], absent=[absent], caller="b")
    assert [row.request_id for row in rows_of(engine, t.forwards)] == [first.request_id, second.request_id]
    ledger.cancel(first.request_id)
    assert {row.request_id for row in rows_of(engine, t.guard)} == {second.request_id}, "neither may come in again"
    assert [row.request_id for row in rows_of(engine, t.forwards)] == [second.request_id]


# ---------------------------------------------------------------------- any order

# Rows 0..7; row r belongs to group 20 + r // 2. Even rows' groups lie in shard 0, the others' in shard 1.
ROWS = range(8)


def shard(row: int) -> int:
    return row // 2 % 2


def group(number: int) -> ResolvedKey:
    rows = [row for row in ROWS if 20 + row // 2 == number]
    made = guarded(number, kind="group", shard=shard(rows[0]))
    return dataclasses.replace(made, rows=tuple(RowKey(key(row + 1).key, made.key) for row in rows))


def single(row: int) -> ResolvedKey:
    made = guarded(row + 1, shard=shard(row))
    return dataclasses.replace(made, rows=(RowKey(made.key, key(20 + row // 2).key),))


def resolved(names: Iterable[int]) -> list[ResolvedKey]:
    return [group(name) if name >= 20 else single(name) for name in sorted(names)]


def rows_named(names: Iterable[int]) -> set[int]:
    return {row for name in names for row in (ROWS if name >= 20 else [name]) if name < 20 or 20 + row // 2 == name}


ASKED = st.tuples(
    st.just("forget"),
    st.sampled_from("abc"),
    st.frozensets(st.sampled_from([*ROWS, 20, 21, 22, 23]), min_size=1, max_size=3),
    st.sampled_from(["auto", "retrain"]),
)
STEPS = st.lists(
    st.one_of(ASKED, ASKED, st.tuples(st.just("cancel"), st.integers(0, 20)), st.tuples(st.just("take"), st.just(0))),
    min_size=3,
    max_size=14,
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[Engine]:
    """A database that no other test uses."""
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('callers')}/ledger.sqlite3", create=True)
    engine.dispose()  # nothing of it has to survive a power cut
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    yield engine
    engine.dispose()


ROW_0, BOTH_OF_GROUP_20 = frozenset({0}), frozenset({0, 1})


@example([
    ("forget", "a", frozenset({20}), "auto"),
    *(("forget", "a", n, "auto") for n in (ROW_0, BOTH_OF_GROUP_20)),
    ("cancel", 1),
])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
@pytest.mark.slow
def test_rows_are_forgotten_exactly_as_long_as_somebody_asks_for_them(alone, steps):
    engine = alone
    with engine.begin() as connection:
        for table in t.metadata.sorted_tables:
            connection.execute(table.delete())
    ledger, token = Ledger(engine), None
    names: dict[str, set[int]] = {}  # request → what it was answered for
    callers: dict[str, str] = {}
    for what, *rest in steps:
        if what == "forget":
            caller, asked, strategy = rest
            request = ledger.accept(resolved(asked), caller=caller, strategy=strategy)
            assert callers.setdefault(request.request_id, caller) == request.caller == caller
            names.setdefault(request.request_id, set()).update(asked)
        elif what == "cancel" and names:
            chosen = [*names][rest[0] % len(names)]
            try:
                ledger.cancel(chosen)
            except StateError:
                continue
            del names[chosen]
        elif what == "take":
            token = token or Lease(engine).acquire("me", 600)
            Progress(engine).take(token, [0])
        gone = rows_named(name for asked in names.values() for name in asked)
        live = {int.from_bytes(k.key, "big") - 1 for k, _ in ledger.assess([single(row) for row in ROWS]).fresh}
        assert live == set(ROWS) - gone
        assert revoked_rows(ledger) == len(gone), "rows are counted once"
        check_standing(engine, ledger, names)


def check_standing(engine: Engine, ledger: Ledger, names: dict[str, set[int]]) -> None:
    """Check that what every request waits for removes all of its rows, and that no two wait for each other."""
    stones = {stone.seq: stone for found in ledger.tombstones().values() for stone in found}
    needs, relies = ledger.shards_of(list(names)), {name: set(ledger.relies_on(name)) for name in names}
    number = {row.request_id: row.seq for row in rows_of(engine, t.requests)}
    entries = {row.mac: row.request_id for row in rows_of(engine, t.guard)}
    for name, asked in names.items():
        assert relies[name] <= names.keys()
        assert all(number[other] < number[name] for other in relies[name])
        for made in resolved(asked):
            assert entries[made.mac] in names
            for row in made.rows:
                covering = [
                    stone
                    for stone in stones.values()
                    if stone.shard == made.shard and stone.key in {row.id, row.group}
                    and stone.request_id in {name, *relies[name]} and stone.seq <= needs[name][made.shard]
                ]  # fmt: skip
                assert covering, "it would end before its rows are gone"
    waits = {(name, shard): seq for name in names for shard, seq in needs[name].items()}
    last = {s: max((stone.seq for stone in stones.values() if stone.shard == s), default=0) for s in (0, 1)}
    assert all(seq <= last[shard] for (_, shard), seq in waits.items()), "nothing waits for what is not there"


def test_an_empty_call_is_none(ledger):
    with pytest.raises(RequestError, match="empty"):
        ledger.accept([], caller="b")


@pytest.mark.parametrize("deadline", [5.0, None])
@pytest.mark.sampled
def test_an_earlier_deadline_of_a_later_caller_hastens_the_purge_of_the_first(ledger, engine, deadline):
    first = ledger.accept([guarded(1)], caller="a", deadline_seconds=1000.0)
    ledger.accept([guarded(1)], caller="b", deadline_seconds=deadline)
    with engine.begin() as connection:
        mine = t.requests.c.request_id == first.request_id
        values = {"state": "SERVED", "exact_at": time.time(), "version_exact": 1}
        connection.execute(t.requests.update().where(mine).values(**values))
        assert connection.scalar(sa.select(t.requests.c.deadline_at).where(mine)) == first.deadline_at
    [found] = Deletions(engine).purgeable(1, 500.0, 60.0, [])
    assert (found.request_id, found.blocked is None) == (first.request_id, deadline is not None)


def test_a_cancelled_request_takes_no_guard_entry_of_another_along(alone):
    with alone.begin() as connection:
        for table in t.metadata.sorted_tables:
            connection.execute(table.delete())
    ledger = Ledger(alone)
    ledger.accept(resolved([20]), caller="a")
    single_, both = (ledger.accept(resolved(names), caller="b") for names in (ROW_0, BOTH_OF_GROUP_20))
    ledger.cancel(single_.request_id)
    assert sorted(macs(alone)[both.request_id]) == [1, 2], "row 0 does not come in again"


def test_the_holder_of_an_entry_is_begun_with_those_that_name_it(alone):
    with alone.begin() as connection:
        for table in t.metadata.sorted_tables:
            connection.execute(table.delete())
    ledger = Ledger(alone)
    first = ledger.accept(resolved([20]), caller="a")
    holder, both = (ledger.accept(resolved(names), caller="b") for names in (ROW_0, BOTH_OF_GROUP_20))
    Progress(alone).mark_planned(Lease(alone).acquire("me", 600), [first.request_id, both.request_id], "round", 0)
    with pytest.raises(StateError, match="can't be cancelled any more"):
        ledger.cancel(holder.request_id)
