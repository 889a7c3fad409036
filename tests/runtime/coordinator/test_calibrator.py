"""Canaries that are revoked: what goes, what is measured again and when, what a crash leaves, what the plan says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu import faults
from hybridmu.core.kernel.partition import digest
from hybridmu.errors import LeaseLostError, StrategyUnavailableError
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.store.ledger import tables as t
from hybridmu.types import CalibrateJob, CalibrationCurve, KeySet, RequestState
from tests.scenes.small_system import Scene, scene

# Whatever has an error below 99 is updated, and canaries are deleted again whatever that costs.
EAGER = {"workload_threshold": 0.0, "light_seconds": 0.0, "time_ratio": 1e-9, "quality_budget": 99.0}
AGAIN = {"calibrate": True, "calibration_shares": [0.1], "recalibration_share": 1e9, "batch_seconds": 0.0}
POLICY = {**EAGER, **AGAIN, "class_excess": 1.0}
SHARDS = 4  # two cells, on two of them each


@contextmanager
def calibrated(folder: Path, **policy: Any) -> Iterator[Scene]:
    folder.mkdir(exist_ok=True)
    with scene(folder, rows=160, shards=SHARDS, **{**POLICY, **policy}) as it:
        yield it


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.observe(None)


def curves(it: Scene) -> list[CalibrationCurve]:
    return it.system.measurements.curves()


def sets(found: list[CalibrationCurve]) -> dict[tuple, list[CalibrationCurve]]:
    """Return (shard, cell) → the curves of one set of canaries."""
    made: dict[tuple, list[CalibrationCurve]] = {}
    for one in found:
        made.setdefault((one.shard, one.cell), []).append(one)
    return made


def known(it: Scene) -> Canaries:
    return Canaries(it.system.site, it.system.ledger, it.system.measurements, it.system.registry)


def raw_ids(it: Scene, keys: tuple[bytes, ...]) -> list[int]:
    ids = {digest(it.system.site.lake.key, "id", row): row for rows in it.rows.values() for row in rows}
    return [ids[key] for key in keys if key in ids]


@pytest.mark.slow
def test_canaries_are_trained_without_twice_where_the_policy_asks_what_retrains_differ_by(tmp_path):
    with calibrated(tmp_path) as it:
        assert {c.controls for c in curves(it)} == {None}
        assert known(it).calibration().noise is None
    with calibrated(tmp_path, quality_noises=2.0) as it:
        assert all(c.controls for c in curves(it)), "what was measured without controls was measured anew"
        assert known(it).calibration().noise.pairs == 4
        assert it.system.status()["calibration"]["noise"]["pairs"] == 4
        assert known(it).lacking() == ()
        spoiled = curves(it)[0]
        it.system.forget(ids=raw_ids(it, spoiled.keys)[:1])
        assert known(it).calibration().noise.pairs == 3, "what was measured with a revoked canary is out of use"
        assert it.system.verify()["exact_claims_hold"], "what serves is as it was"


def test_training_deletes_disjoint_canaries_on_different_shards(tmp_path):
    with calibrated(tmp_path) as it:
        found = sets(curves(it))
        assert len(found) == 4
        assert len({shard for shard, _ in found}) == SHARDS
        assert {c.strategy for group in found.values() for c in group} == {"dpus", "dpus-optimised", "dpus-newton"}
        for (shard, _), group in found.items():
            assert len({c.keys for c in group}) == 1
            assert set(raw_ids(it, group[0].keys)) <= set(it.rows[shard])
            assert group[0].canaries == len(group[0].keys)
            assert group[0].seconds > 0
        assert known(it).lacking() == ()
        assert it.system.train(calibrate=True)["calibrated"], "and once is enough"
        assert curves(it) == [c for group in found.values() for c in group]
        assert it.system.measurements.effort()[1] == 0.0, "the first calibration is not paid from the budget"


@pytest.mark.slow
def test_a_revoked_canary_costs_one_set_and_that_is_measured_again_without_it(tmp_path):
    with calibrated(tmp_path) as it:
        before = sets(curves(it))
        (shard, cell), group = next(iter(before.items()))
        canary = raw_ids(it, group[0].keys)[0]
        buckets = known(it).calibration().buckets
        request = it.forget(canary, strategy="retrain")
        left = known(it).calibration()
        assert left.waiting == (), "another shard has deleted canaries for it"
        for old, new in zip(buckets, left.buckets, strict=True):
            hit = (old.first_slice, old.share) == (cell.first_slice, cell.share)
            assert (old.shards, new.shards) == (2, 1 if hit else 2)
            assert (new.spread > old.spread) or not hit
        it.system.run(until_idle=True)
        after = sets(curves(it))
        assert it.state(request) is RequestState.SERVED
        assert {key: after[key] for key in before if key != (shard, cell)} == {
            key: before[key] for key in before if key != (shard, cell)
        }, "nothing else was touched"
        assert after.keys() == before.keys()
        anew = after[shard, cell]
        assert anew != group
        assert digest(it.system.site.lake.key, "id", canary) not in anew[0].keys
        assert [bucket.shards for bucket in known(it).calibration().buckets] == [2] * len(buckets)
        assert it.system.measurements.effort()[1] >= anew[0].seconds
        it.assert_exact_without([canary])

        # What was measured is what this shard's live rows and exact checkpoints give, and nobody else's.
        avoid = tuple(key for (s, c), one in after.items() if s == shard and c != cell for key in one[0].keys)
        stones = it.system.ledger.tombstones()[shard]
        job = CalibrateJob(job_id="j", shard=shard, cells=(cell,), avoid=avoid, tombstones=KeySet.of(stones))
        found = ShardWorker(it.system.settings, shard).calibrate(job).curves
        assert [(c.strategy, c.gaps, c.keys) for c in found] == [(c.strategy, c.gaps, c.keys) for c in anew]


def test_canaries_are_deleted_on_the_exact_run_of_the_live_rows_only(tmp_path):
    with calibrated(tmp_path) as it:
        key = digest(it.system.site.lake.key, "id", it.rows[0][0])
        worker = ShardWorker(it.system.settings, 0)
        cells = tuple(cell for _, cell in sets(curves(it)))
        job = CalibrateJob(job_id="j", shard=0, cells=cells[:1])
        assert worker.calibrate(job).curves
        with pytest.raises(StrategyUnavailableError, match="no complete run on its live rows"):
            worker.calibrate(replace(job, tombstones=KeySet([("id", key)])))


def test_until_then_the_plan_says_so(tmp_path):
    with calibrated(tmp_path, batch_seconds=3600, recalibration_share=0.0) as it:
        other = it.rows[0][-1]
        shard = it.system.plan(ids=[other]).shards[0]
        assert shard.strategy != "retrain"
        assert shard.predicted_error == shard.calibration.bound == shard.calibration.error + shard.calibration.spread
        assert f"error {shard.calibration.error:.3f} + spread {shard.calibration.spread:.3f}" in "\n".join(
            shard.reasons
        )
        spoiled = [raw_ids(it, group[0].keys)[0] for group in sets(curves(it)).values()]
        it.forget(*spoiled, deadline_seconds=1e9)
        shard = next(s for s in it.system.plan(ids=[next(r for r in it.rows[0] if r not in spoiled)]).shards)
        assert (shard.strategy, shard.rule) == ("retrain", "availability")
        assert "not calibrated on this system; canaries are deleted when nothing else is to do" in shard.reasons[0]


def test_what_was_fitted_is_in_the_plan_and_in_the_status(tmp_path):
    with calibrated(tmp_path) as it:
        plan = json.loads(json.dumps(asdict(it.system.plan(ids=it.rows[0][:4]))))
        (shard,) = plan["shards"]
        found = shard["calibration"]
        assert found["alpha"] == shard["alpha"]
        assert found["alpha_range"][0] <= found["alpha"] <= found["alpha_range"][1]
        assert found["canaries"] > 0
        assert found["shards"] == 2
        assert found["cells"]
        status = json.loads(json.dumps(it.system.status()["calibration"]))
        assert len(status["buckets"]) == 3 * 2
        assert {"alpha", "alpha_range", "error", "spread", "canaries", "shards"} <= status["buckets"][0].keys()
        assert status["waiting"] == []
        assert status["noise"] is None
        assert status["seconds_allowed_again"] > status["seconds_spent_again"] == 0.0


# ---------------------------------------------------------------------- budget, urgency


@pytest.mark.parametrize(("share", "measured"), [(0.0, 2), (1e-9, 3), (1e9, 4)])
@pytest.mark.sampled
def test_the_budget_bounds_what_is_measured_again(tmp_path, share, measured):
    """The last job may go beyond it, a further one does not begin."""
    with calibrated(tmp_path, recalibration_share=share) as it:
        groups = [*sets(curves(it)).values()][:2]
        it.forget(*(raw_ids(it, group[0].keys)[0] for group in groups), strategy="retrain")
        it.system.run(until_idle=True)
        found = sets(curves(it))
        assert len(found) == measured
        assert (it.system.measurements.effort()[1] > 0) == (share > 0)
        assert it.system.run(until_idle=True).calibrating is False


@pytest.mark.slow
def test_one_at_a_time_and_only_when_nothing_else_is_to_do(tmp_path):
    with calibrated(tmp_path, repair="idle") as it:
        spoiled = [raw_ids(it, group[0].keys)[0] for group in sets(curves(it)).values()]
        requests = [it.forget(row, strategy="dpus") for row in spoiled]
        launched = []

        def look(name):
            if name == "calibrate.launch":
                coordinator = it.coordinator
                assert not coordinator._rounds.rounds
                assert not coordinator._dispatcher.busy
                assert it.system.registry.debts() == {}, "repairs come first"
                assert {it.state(request) for request in requests} == {RequestState.SERVED}
                launched.append(name)
                if len(launched) == 2:  # something comes in between
                    requests.append(it.forget(next(r for r in it.rows[0] if r not in spoiled), strategy="retrain"))

        faults.observe(look)
        it.system.run(until_idle=True)
        faults.observe(None)
        assert len(launched) >= 4
        assert known(it).lacking() == ()
        assert it.state(requests[-1]) is RequestState.SERVED


@pytest.mark.slow
def test_a_shard_that_owes_an_exact_repair_waits_for_it(tmp_path):
    with calibrated(tmp_path, repair="deadline") as it:
        (shard, cell), group = next(iter(sets(curves(it)).items()))
        others = [other for other in range(SHARDS) if other != shard]
        canary = raw_ids(it, group[0].keys)[0]
        bystanders = [next(r for r in it.rows[other] if r not in raw_ids(it, _all_keys(it))) for other in others]
        it.forget(canary, *bystanders, strategy="dpus")
        it.system.run(until_idle=True)
        assert set(it.system.registry.debts()) == set(range(SHARDS))
        assert (shard, cell) not in sets(curves(it)), "every shard is approximate"
        assert known(it).lacking() == ()
        it.forget(
            next(r for r in it.rows[shard] if r not in raw_ids(it, _all_keys(it)) and r != canary), strategy="retrain"
        )
        it.system.run(until_idle=True)
        assert (shard, cell) in sets(curves(it))


@pytest.mark.parametrize(("seconds", "measured"), [(10.0, 4), (7200.0, 3)])
@pytest.mark.sampled
def test_canaries_wait_for_a_repair_that_could_miss_its_deadline(tmp_path, seconds, measured):
    with calibrated(tmp_path, repair="deadline") as it:
        groups = [*sets(curves(it)).values()]
        token = it.coordinator.leadership.token()
        it.system.measurements.add_curves(token, [replace(c, seconds=seconds) for c in groups[0]])
        spoiled = groups[1][0]
        it.forget(raw_ids(it, spoiled.keys)[0], strategy="retrain")
        other = next(s for s in range(SHARDS) if s != spoiled.shard)
        free = next(row for row in it.rows[other] if row not in raw_ids(it, _all_keys(it)))
        it.forget(free, strategy="dpus", deadline_seconds=3600)
        it.step(12)
        assert other in it.system.registry.debts()
        assert len(sets(curves(it))) == measured


def _all_keys(it: Scene) -> tuple[bytes, ...]:
    return tuple(key for one in curves(it) for key in one.keys)


# ---------------------------------------------------------------------- crashes and fences


class _Stop(BaseException):
    pass


def _stop() -> None:
    raise _Stop


@pytest.mark.parametrize("hit", [1, 3])
@pytest.mark.parametrize("point", ["calibration.commit", "calibration.committed"])
@pytest.mark.sampled
def test_a_first_calibration_that_broke_off_is_finished(tmp_path, point, hit):
    with calibrated(tmp_path / "other") as whole:
        expected = {key: [c.gaps for c in group] for key, group in sets(curves(whole)).items()}
    faults.arm(point, hit, _stop)
    with pytest.raises(_Stop), calibrated(tmp_path):
        pass
    faults.observe(None)
    data = {**whole.config["data"], "train": str(tmp_path / "train.parquet")}
    config = {**whole.config, "data": data, "storage_url": str(tmp_path / "storage")}
    with hybridmu.connect(config, executor="local") as system:
        half = system.measurements.curves()
        assert len(sets(half)) == hit - (point == "calibration.commit")
        system.train(calibrate=True)
        found = system.measurements.curves()
        assert found[: len(half)] == half, "what was committed is not measured twice"
        assert {key: [c.gaps for c in group] for key, group in sets(found).items()} == expected


@pytest.mark.parametrize(
    "point", ["calibrate.launch", "calibration.commit", "calibration.committed", "job.submit", "job.result"]
)
@pytest.mark.sampled
def test_measuring_again_goes_on_after_a_crash(tmp_path, point):
    with calibrated(tmp_path) as it:
        group = next(iter(sets(curves(it)).values()))
        canary = raw_ids(it, group[0].keys)[0]
        it.forget(canary, strategy="retrain", wait=True)
        faults.arm(point, 1, _stop)
        with pytest.raises(_Stop):
            it.system.run(until_idle=True)
        faults.observe(None)
        it.system.close()  # its lease would end by itself, seconds later
        with hybridmu.connect(it.config, executor="local") as system:
            system.run(until_idle=True)
            again = Scene(system, it.config, it.table, it.rows)
            assert known(again).lacking() == ()
            assert digest(system.site.lake.key, "id", canary) not in _all_keys(again)
            assert len(sets(curves(again))) == 4
            again.assert_exact_without([canary])


@pytest.mark.slow
def test_a_stale_coordinator_measures_nothing(tmp_path):
    with calibrated(tmp_path) as it:
        it.forget(raw_ids(it, curves(it)[0].keys)[0], strategy="retrain", wait=True)
        before = it.system.measurements.curves()
        it.system.lease.release(it.coordinator.leadership.token())
        assert it.system.lease.acquire("another", 60)
        with pytest.raises(LeaseLostError):
            it.system.run(until_idle=True)
        assert it.system.measurements.curves() == before


@pytest.mark.slow
def test_a_job_that_fails_is_not_tried_at_once(tmp_path, monkeypatch):
    with calibrated(tmp_path) as it:
        it.forget(raw_ids(it, curves(it)[0].keys)[0], strategy="retrain", wait=True)
        tried = []
        monkeypatch.setattr(ShardWorker, "calibrate", lambda self, job: tried.append(job) or 1 / 0)
        it.system.run(until_idle=True)
        it.system.run(until_idle=True)
        assert len(tried) == 1
        assert len(sets(curves(it))) == 3
        monkeypatch.undo()
        it.coordinator._calibrator._not_before.clear()  # later
        it.coordinator._calibrator.wake()
        it.system.run(until_idle=True)
        assert len(sets(curves(it))) == 4


# ---------------------------------------------------------------------- what canaries do not stand for


@pytest.mark.slow
def test_a_whole_class_is_removed_exactly_and_the_plan_says_why(tmp_path):
    with calibrated(tmp_path, class_excess=0.05) as it:
        labels = dict(zip(*pq.read_table(it.table, columns=["id", "label"]).to_pydict().values(), strict=True))
        mine = it.rows[1]
        yes = [row for row in mine if labels[row] == "yes"]
        mixed = [*yes[:2], *(row for row in mine if labels[row] == "no")][:4]
        (shard,) = it.system.plan(ids=mixed).shards
        assert shard.strategy != "retrain"
        (shard,) = it.system.plan(ids=yes).shards
        assert (shard.strategy, shard.rule) == ("retrain", "class")
        expected = 1 - len(yes) / len(mine)
        assert f"{expected:.1%} above that of all rows (at most 5.0%)" in shard.reasons[0]
        report = it.system.forget(ids=yes, wait=True)
        assert [(s["strategy"], s["rule"]) for s in report["shards"]] == [("retrain", "class")]
        it.assert_exact_without(yes)


@pytest.mark.slow
def test_a_class_that_goes_little_by_little_is_noticed_too(tmp_path):
    """What an update removed before still counts until the shard is exact again."""
    with calibrated(tmp_path, class_excess=0.2, repair="deadline") as it:
        labels = dict(zip(*pq.read_table(it.table, columns=["id", "label"]).to_pydict().values(), strict=True))
        yes = [row for row in it.rows[1] if labels[row] == "yes"]
        rules = [it.system.forget(ids=[row], wait=True)["shards"][0]["rule"] for row in yes[:-1]]
        assert rules[0] == "boundary"
        assert "class" in rules


# ---------------------------------------------------------------------- the first calibration


@contextmanager
def trained(folder: Path, **policy: Any) -> Iterator[hybridmu.System]:
    """Yield a system that is trained, and not calibrated at once."""
    with scene(folder, rows=160, shards=SHARDS, **{**POLICY, "calibrate": False}) as it:
        config = {**it.config, "policy": {**it.config["policy"], "calibrate": True, **policy}}
    with hybridmu.connect(config, executor="local") as system:
        yield system


def test_training_does_not_wait_for_canaries_and_an_idle_coordinator_deletes_them(tmp_path):
    with trained(tmp_path) as system:
        again = system.train()
        assert (again["calibrated"], again["calibration"]) == (
            False,
            {"state": "waiting", "why": "", "sets_lacking": 4},
        )
        system.run(until_idle=True)
        assert len(sets(system.measurements.curves())) == 4
        assert system.measurements.effort()[1] == 0.0, "the first calibration has a budget of its own"
        assert system.measurements.first_calibration().over
        assert system.train()["calibration"]["state"] == "done"


def test_who_waits_for_canaries_sees_every_set(tmp_path):
    seen = []
    with trained(tmp_path) as system:
        system.train(lambda snapshot: seen.append(snapshot.canaries), calibrate=True)
        assert [done for done, total in seen if total == 4] == sorted(done for done, total in seen if total == 4)
        assert {done for done, total in seen if total == 4} >= {1, 2, 3}
        assert system.measurements.first_calibration().seconds > 0


@pytest.mark.parametrize("at_once", [False, True])
def test_the_first_calibration_ends_when_its_time_is_up(tmp_path, at_once):
    """Jobs that run then are finished: one when nobody waits, one per shard when somebody does."""
    with trained(tmp_path, calibration_seconds=1e-9, recalibration_share=0.0) as system:
        if at_once:
            system.train(calibrate=True)
        system.run(until_idle=True)
        assert len(sets(system.measurements.curves())) == (SHARDS if at_once else 1)
        assert system.measurements.first_calibration().over
        assert system.status()["calibration"]["seconds_spent_again"] == 0.0


def test_what_lacks_afterwards_is_measured_within_the_budget_for_that(tmp_path):
    with trained(tmp_path, calibration_seconds=0.0) as system:
        system.run(until_idle=True)
        assert len(sets(system.measurements.curves())) == 4
        assert system.measurements.effort()[1] > 0


def test_no_canary_is_deleted_where_every_retrain_is_light(tmp_path):
    with trained(tmp_path, light_seconds=1e6) as system:
        result = system.train(calibrate=True)
        assert result["calibration"]["state"] == "needless"
        assert "light, at most 1e+06 s" in result["calibration"]["why"]
        system.run(until_idle=True)
        assert system.measurements.curves() == []
        assert system.status()["calibration"]["needless"] == result["calibration"]["why"]
        (shard,) = system.plan(ids=[3]).shards
        assert shard.strategy == "retrain"
        assert "not calibrated on this system, and needs not be: retrain" in shard.reasons[0]


def test_a_policy_that_always_updates_is_calibrated_all_the_same(tmp_path):
    with trained(tmp_path, light_seconds=1e6, strategy="dpus") as system:
        assert system.train()["calibration"]["state"] == "waiting"
        system.run(until_idle=True)
        assert system.measurements.curves()


def test_what_an_older_release_calibrated_is_over(tmp_path):
    with calibrated(tmp_path) as it:
        engine = it.system.database.engine
        with engine.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == "first calibration"))
        assert it.system.measurements.first_calibration().over
