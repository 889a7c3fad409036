"""Retrains because of what storage lost, and when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridmu.errors import HybridMUError, LeaseLostError
from hybridmu.runtime.coordinator.integrity import Healer
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.store.ledger.corruption_reports import Damages
from hybridmu.store.storage.blob_names import blob_file
from hybridmu.types import RequestState, RetrainJob, ShardOutcome
from tests.scenes.small_system import Scene, scene


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        made.step(10)  # every shard was read
        yield made


def served(made: Scene, shard: int) -> Path:
    blob = made.system.registry.version().shards[shard].blob
    return Path(made.system.site.storage.path(blob_file(str(blob))))


def damages(made: Scene) -> Damages:
    return made.system.database.damages


def test_reports_are_kept_until_the_shard_changed(trained: Scene) -> None:
    found = damages(trained)
    found.report(1, "1/a")
    found.report(1, "1/b")
    found.report(2, "2/c")
    assert found.reported() == {1: "1/b", 2: "2/c"}
    token = trained.coordinator.leadership.token()
    with pytest.raises(LeaseLostError):
        found.settle(token - 1, 1)
    found.settle(token, 1)
    assert found.reported() == {2: "2/c"}


def test_a_new_coordinator_misses_a_file_at_once_and_reads_the_others_in_time(trained: Scene) -> None:
    served(trained, 2).unlink()
    data = bytearray(served(trained, 0).read_bytes())
    data[-1] ^= 1
    served(trained, 0).write_bytes(data)
    healer = Healer(trained.system.site, trained.system.database)
    assert healer.due(busy=(), idle=False) == {2}
    assert healer.due(busy={2}, idle=True) == set(), "somebody is at work there"
    healer.changed(trained.coordinator.leadership.token(), [2], mended=True)
    found = [healer.due(busy=(), idle=True) for _ in range(2)]
    assert {0} in found
    assert healer.due(busy=(), idle=False) == {0}
    healer.changed(trained.coordinator.leadership.token(), [0], mended=True)
    assert [healer.due(busy=(), idle=True) for _ in range(5)] == [set()] * 5, "it is not read in a circle"
    healer.changed(trained.coordinator.leadership.token(), [0])
    assert {0} in [healer.due(busy=(), idle=True) for _ in range(3)]


@pytest.mark.slow
def test_a_report_of_what_is_whole_costs_a_look_and_no_version(trained: Scene) -> None:
    before = served(trained, 1).stat().st_mtime_ns
    damages(trained).report(1, str(trained.system.registry.version().shards[1].blob))
    trained.step(5)
    assert damages(trained).reported() == {}
    assert trained.system.registry.served() == 1
    assert served(trained, 1).stat().st_mtime_ns == before


def test_a_pause_holds_it_up(trained: Scene) -> None:
    served(trained, 1).unlink()
    damages(trained).report(1, "")
    trained.system.pause("looking")
    trained.step(5)
    assert not served(trained, 1).exists()
    trained.system.resume()
    trained.step(5)
    assert served(trained, 1).exists()


@pytest.mark.slow
def test_what_was_revoked_meanwhile_goes_with_it(trained: Scene) -> None:
    served(trained, 1).unlink()
    damages(trained).report(1, "")
    trained.system.pause("so that nobody claims it")
    request = trained.forget(trained.rows[1][0])
    trained.system.resume()
    trained.coordinator._repairs.heal(trained.coordinator.leadership.token(), idle=True)
    trained.step(20)
    assert trained.state(request) in {RequestState.SERVED, RequestState.PURGED}
    trained.assert_exact_without([trained.rows[1][0]])


def test_a_shard_that_can_not_be_retrained_is_tried_again_later(
    trained: Scene, monkeypatch: pytest.MonkeyPatch, own_clock: Callable[[float], None]
) -> None:
    real, tries = ShardWorker.retrain, []

    def broken(worker: ShardWorker, job: RetrainJob) -> ShardOutcome:
        tries.append(job.shard)
        if worker.shard == 1:
            raise HybridMUError("no luck")
        return real(worker, job)

    monkeypatch.setattr(ShardWorker, "retrain", broken)
    served(trained, 1).unlink()
    damages(trained).report(1, "")
    request = trained.forget(trained.rows[0][0])
    trained.step(10)
    assert sorted(tries) == [0, 1], "others go on, and it is no loop"
    assert trained.state(request) in {RequestState.SERVED, RequestState.PURGED}
    monkeypatch.setattr(ShardWorker, "retrain", real)
    own_clock(61.0)
    trained.step(5)
    assert served(trained, 1).exists()
    assert damages(trained).reported() == {}
