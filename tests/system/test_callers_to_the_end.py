"""Requests of several callers for the same rows, from acceptance to purge: one removal, and an end for each of them."""

from __future__ import annotations

import pytest

import hybridmu
from hybridmu import faults
from hybridmu.runtime.coordinator.coordinator import Coordinator
from hybridmu.store.certificates import Certificates
from hybridmu.types import RequestState
from tests.store.ledger.test_journal import back_up, restore
from tests.support import make_table, settings_dict


@pytest.fixture
def config(tmp_path):
    make_table(tmp_path / "train.parquet", 90)
    return settings_dict(tmp_path, sisa={"shards": 3}, policy={"verify_share": 0.0, "calibrate": False})


@pytest.fixture
def system(config):
    with hybridmu.connect(config, executor="local") as made:
        made.train()
        yield made


def forget(system, *ids, **options) -> str:
    return str(system.forget(ids=ids, **options)["request_id"])


def states(system, *names) -> list[RequestState]:
    return [system.ledger.request(name).state for name in names]


def certified(system) -> list[str]:
    return [document["request"]["id"] for document in Certificates(system.site.storage).all()]


def test_one_removal_fulfils_both_and_each_ends(system):
    first, second = forget(system, 1, 2, caller="a"), forget(system, 2, caller="b")
    mixed = forget(system, 2, 3, caller="c")
    system.run(until_idle=True)
    assert states(system, first, second, mixed) == [RequestState.PURGED] * 3
    reports = [system.report(name) for name in (first, second, mixed)]
    rounds = [{shard["round"] for shard in report["shards"]} for report in reports]
    assert len(set().union(*rounds)) == 1, "nothing is done twice"
    assert certified(system) == [first, mixed], "who revoked rows has a certificate of them"
    assert [report["certificate"] for report in reports] == [1, None, 2]
    assert reports[1]["reason"] == "its rows were purged for an earlier request"
    assert system.ledger.relies_on(second) == {first: 1}
    assert all(reports[1][f"seconds_to_{name}"] >= 0 for name in ("applied", "served", "exact", "purged"))
    assert first not in str(reports[1])


def test_who_asks_when_the_rows_are_out_already_waits_for_no_work(system):
    first = forget(system, 1, caller="a", wait=True)
    version = system.registry.served()
    second = forget(system, 1, caller="b", strategy="retrain", wait=True)
    assert system.registry.served() == version
    assert system.ledger.request(second).applied_at >= system.ledger.request(second).received_at
    system.run(until_idle=True)
    assert states(system, first, second) == [RequestState.PURGED] * 2
    late = system.forget(ids=[1], caller="c")
    assert (late["state"], late["certificate"], late["caller"]) == ("PURGED", None, "c")


def test_a_hold_on_what_joined_keeps_the_rows(system):
    first, second = forget(system, 1, caller="a", wait=True), forget(system, 1, caller="b")
    number = system.hold("a lawsuit", second)["number"]
    system.run(until_idle=True)
    assert states(system, first, second) == [RequestState.SERVED] * 2
    assert system.ledger.request(first).reason == f"legal hold {number}"
    assert certified(system) == []
    system.lift(number)
    system.close()  # who comes next looks at once
    system.run(until_idle=True)
    assert states(system, first, second) == [RequestState.PURGED] * 2


class _PowerError(BaseException):
    """Nothing but the end of the process catches it."""


def _fail() -> None:
    raise _PowerError


@pytest.mark.parametrize("point", ["finish.committed", "certificate.appended"])
@pytest.mark.sampled
def test_a_crash_loses_nobody(config, system, point):
    first = forget(system, 1, caller="a", wait=True)
    second = forget(system, 1, 2, caller="b")
    third = forget(system, 1, caller="c")
    faults.arm(point, 1, _fail)
    try:
        with pytest.raises(_PowerError):
            system.run(until_idle=True)
    finally:
        faults.observe(None)
    system.close()
    with hybridmu.connect(config, executor="local") as again:
        again.run(until_idle=True)
        assert states(again, first, second, third) == [RequestState.PURGED] * 3
        assert sorted(certified(again)) == sorted([first, second])


def test_a_restored_ledger_learns_of_what_joined(config, system, tmp_path):
    first = forget(system, 1, caller="a", wait=True)
    back_up(system, tmp_path / "backup")
    second = forget(system, 1, caller="b", wait=True)
    system.close()
    restore(config, tmp_path / "backup")
    with hybridmu.connect(config, executor="local") as again:
        again.replay()
        assert again.ledger.request(second).caller == "b"
        assert list(again.ledger.relies_on(second)) == [first]
        again.run(until_idle=True)
        assert states(again, first, second) == [RequestState.PURGED] * 2


def test_a_request_cancelled_under_a_coordinator_leaves_the_other_its_rows(system):
    coordinator = system.session.coordination.acquire()
    assert isinstance(coordinator, Coordinator)
    system.pause("a test")
    first, second = forget(system, 1, 2, caller="a"), forget(system, 2, caller="b")
    coordinator.step(0.0)
    system.cancel(first, "a")
    system.resume()
    system.run(until_idle=True)
    assert states(system, first, second) == [RequestState.CANCELLED, RequestState.PURGED]
    assert certified(system) == [second]
    assert system.forget(ids=[1], caller="c")["keys"] == 1, "it is live again"
