"""The lease of a replica, without Ray: it never answers behind a request that reports SERVED."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy.exc import OperationalError

import hybridmu
from hybridmu.config import Settings
from hybridmu.errors import StateError
from hybridmu.serving.replica import Replica
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.types import RequestState
from tests.ray import support
from tests.support import HANG_SECONDS

LEASE = 60.0  # longer than a busy machine takes for a step; where it must end, the clock is moved


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`pass_time(seconds)` moves the ledger's clock and the replicas' ahead, both alike."""
    ahead = [0.0]
    wall, own = time.time, time.monotonic
    moved = SimpleNamespace(time=lambda: wall() + ahead[0], monotonic=lambda: own() + ahead[0], sleep=time.sleep)
    for module in ("store.ledger.replicas", "serving.follower", "serving.replica"):
        monkeypatch.setattr(f"hybridmu.{module}.time", moved)
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture
def system(tmp_path: Path) -> Any:
    raw = support.config(tmp_path, sisa={"shards": 2, "slices": 2}, serving={"lease_seconds": LEASE})
    with hybridmu.connect(raw, executor="local") as opened:
        opened.train()
        yield opened


def step_until_applied(system: hybridmu.System, number: int) -> str:
    """Forget one id with a coordinator that doesn't wait for replicas, and return the request."""
    request_id = str(system.forget(ids=[number], strategy="retrain")["request_id"])
    driver = system.session.coordination.acquire()
    while system.ledger.request(request_id).state in {RequestState.RECEIVED, RequestState.PLANNED}:
        driver.step(0.0)
    return request_id


def state(system: hybridmu.System, request_id: str) -> RequestState:
    system.session.coordination.acquire().step(0.0)
    return system.ledger.request(request_id).state


def test_a_replica_registers_before_every_reading_of_the_pointer(
    system: hybridmu.System, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    register, served, version = Replicas.register, Registry.served, Registry.version

    def spy(name: str, plain: Any) -> Any:
        def call(self: Any, *args: Any) -> Any:
            calls.append(name)
            return plain(self, *args)

        return call

    monkeypatch.setattr(Replicas, "register", spy("register", register))
    monkeypatch.setattr(Registry, "served", spy("read", served))
    monkeypatch.setattr(Registry, "version", spy("load", version))
    replica = Replica(system.settings, "one")
    assert calls == ["register", "load", "register", "read"]
    calls.clear()
    step_until_applied(system, 3)
    calls.clear()
    replica.refresh()
    assert calls == ["register", "read", "load", "register", "read"], "the new version is confirmed, then looked past"


def test_a_lease_that_ran_out_unseen_does_not_let_an_old_version_answer(
    system: hybridmu.System, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    replica = Replica(system.settings, "one")
    register = Replicas.register
    done: list[str] = []

    def late(self: Replicas, *args: Any) -> None:
        """The ledger stalls: the lease is over there, and a request is served, before this registration lands."""
        if not done:
            done.append(step_until_applied(system, 3))
            assert state(system, done[0]) is RequestState.APPLIED
            pass_time(LEASE)
            assert state(system, done[0]) is RequestState.SERVED
        register(self, *args)

    monkeypatch.setattr(Replicas, "register", late)
    assert replica.refresh() == 2
    with replica.answering():
        assert replica.ensemble.version == 2


def test_an_unreachable_ledger_takes_the_replica_out_of_rotation(
    system: hybridmu.System, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    replica = Replica(system.settings, "one")
    stop = Event()

    def fail(*_: object) -> None:
        raise OperationalError("update replicas", {}, Exception("unable to open database file"))

    register = Replicas.register
    monkeypatch.setattr(Replicas, "register", fail)
    follower = Thread(target=replica.follow, args=(stop,))
    follower.start()
    assert replica.healthy
    with replica.answering():
        pass
    pass_time(LEASE)
    assert not replica.healthy
    with pytest.raises(StateError, match="lost touch with the ledger"), replica.answering():
        raise AssertionError("answered without a lease")
    monkeypatch.setattr(Replicas, "register", register)
    support.until(lambda: replica.healthy)  # it comes back by itself
    with replica.answering():
        pass
    stop.set()
    follower.join(HANG_SECONDS)
    assert not follower.is_alive()


def test_a_slow_replica_keeps_a_request_at_applied_until_it_confirms(system: hybridmu.System) -> None:
    replica = Replica(system.settings, "slow")
    request_id = step_until_applied(system, 3)
    assert state(system, request_id) is RequestState.APPLIED
    assert system.status()["replicas"] == {"slow": 1}
    with replica.answering():
        swap = Thread(target=replica.refresh)
        swap.start()
        support.until(lambda: replica.ensemble.version == 2)
        # The new version answers, but an answer of the old one is not finished.
        assert state(system, request_id) is RequestState.APPLIED
    swap.join(HANG_SECONDS)
    assert state(system, request_id) is RequestState.SERVED
    assert system.status()["replicas"] == {"slow": 2}


def test_an_answer_that_outlasts_the_lease_is_not_given(
    system: hybridmu.System, pass_time: Callable[[float], None]
) -> None:
    replica = Replica(system.settings, "slow")

    def answer(meanwhile: Callable[[], None]) -> None:
        with replica.answering():
            meanwhile()

    with pytest.raises(StateError, match="may be behind"):
        answer(lambda: pass_time(LEASE))
    replica.refresh()
    request_id = step_until_applied(system, 3)

    def swapped_meanwhile() -> None:
        swap = Thread(target=replica.refresh)
        swap.start()
        support.until(lambda: replica.ensemble.version == 2)
        pass_time(LEASE)  # it waits no longer for this answer, and confirms the new version
        swap.join(HANG_SECONDS)
        assert replica.healthy
        assert state(system, request_id) is RequestState.SERVED

    with pytest.raises(StateError, match="may be behind"):
        answer(swapped_meanwhile)
    answer(lambda: None)


def test_a_dead_replica_holds_a_request_as_long_as_its_lease_and_no_longer(
    system: hybridmu.System, pass_time: Callable[[float], None]
) -> None:
    replica = Replica(system.settings, "dead")
    request_id = step_until_applied(system, 3)
    pass_time(LEASE / 2)
    assert state(system, request_id) is RequestState.APPLIED
    assert replica.healthy, "the old version answers, and the request says so"
    pass_time(LEASE / 2)
    assert state(system, request_id) is RequestState.SERVED
    assert not replica.healthy, "it refuses from here on, so that served means served"


def test_a_replica_that_leaves_is_not_waited_for(system: hybridmu.System) -> None:
    Replica(system.settings, "leaves").close()
    assert state(system, step_until_applied(system, 3)) is RequestState.SERVED


def test_only_changed_sub_models_are_read_again(system: hybridmu.System) -> None:
    replica = Replica(system.settings, "one")
    before = replica.ensemble
    step_until_applied(system, support.ids_in(system, 0)[0])
    replica.refresh()
    assert replica.ensemble.models[1] is before.models[1]
    assert replica.ensemble.models[0] is not before.models[0]


def withholding(system: hybridmu.System, name: str = "one", **policy: Any) -> Replica:
    raw = system.settings.model_dump(mode="json")
    raw["policy"] |= {"quarantine": True, **policy}
    return Replica(Settings.model_validate(raw), name)


def test_from_acceptance_to_service_a_touched_shard_does_not_vote(system: hybridmu.System) -> None:
    replica = withholding(system)
    rows = [{f"x{i}": float(i) for i in range(8)}]
    both = replica.ensemble.answer(replica.ensemble.encode(rows))
    request_id = str(system.forget(ids=[support.ids_in(system, 0)[0]], strategy="retrain")["request_id"])
    assert replica.refresh() == 1
    answer = replica.ensemble.answer(replica.ensemble.encode(rows))
    assert (answer["version"], answer["withheld"], replica.ensemble.voters) == (1, 1, 1), "how many, not which"
    alone = torch.softmax(replica.ensemble.models[1][1](torch.from_numpy(replica.ensemble.encode(rows))), 1)[0]
    assert list(answer["predictions"][0]["probabilities"].values()) == pytest.approx(alone.tolist())
    assert answer["predictions"] != both["predictions"]
    report = system.report(request_id)
    assert report["state"] == RequestState.RECEIVED
    assert report["quarantined_at"] >= report["received_at"]
    while system.ledger.request(request_id).state is not RequestState.APPLIED:
        system.session.coordination.acquire().step(0.0)
    assert replica.refresh() == 2
    assert (replica.ensemble.withheld, replica.ensemble.voters) == (frozenset(), 2)


def test_quarantine_leaves_enough_voters_and_says_what_it_did_not_do(system: hybridmu.System) -> None:
    replica = withholding(system)  # of two shards at least one votes
    ids = [support.ids_in(system, shard)[0] for shard in (1, 0)]
    requests = [str(system.forget(ids=[each], strategy="retrain")["request_id"]) for each in ids]
    replica.refresh()
    assert replica.ensemble.withheld == {1}, "the first that was asked"
    assert [system.report(each)["quarantined_at"] is None for each in requests] == [False, True]
    system.cancel(requests[0])
    replica.refresh()
    assert replica.ensemble.withheld == {0}
    assert system.report(requests[1])["quarantined_at"]
    assert withholding(system, "two", min_voters=2).ensemble.withheld == frozenset()


def test_an_answer_that_began_before_the_quarantine_holds_back_its_moment(system: hybridmu.System) -> None:
    replica = withholding(system)
    request_id = str(system.forget(ids=[support.ids_in(system, 0)[0]], strategy="retrain")["request_id"])
    with replica.answering():
        begins = Thread(target=replica.refresh)
        begins.start()
        support.until(lambda: replica.ensemble.withheld)
        assert system.report(request_id)["quarantined_at"] is None
    begins.join(HANG_SECONDS)
    assert system.report(request_id)["quarantined_at"]


def test_aggregation_is_the_configured_one(system: hybridmu.System) -> None:
    rows = [{f"x{i}": float(i) for i in range(8)}]
    by_mean = system.predict(rows)["predictions"][0]["probabilities"]
    raw = system.settings.model_dump(mode="json") | {"serving": {"aggregation": "vote"}}
    replica = Replica(Settings.model_validate(raw), "votes")
    ensemble = replica.ensemble
    votes = ensemble.answer(ensemble.encode(rows))["predictions"][0]["probabilities"]
    assert ensemble.how == "vote"
    assert set(votes.values()) <= {0.0, 0.5, 1.0}, "two voters"
    assert not set(by_mean.values()) <= {0.0, 0.5, 1.0}
