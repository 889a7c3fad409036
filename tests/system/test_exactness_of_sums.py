"""Subtraction is exact: after any sequence of requests the weights are those of a training without the rows.

The oracle is tests/reference_sums.py: rational arithmetic on the source table, without a line of the package.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
from hybridmu import faults
from hybridmu.core.learners.merging import answering
from hybridmu.errors import StrategyUnavailableError
from hybridmu.runtime.workers.executor import LocalExecutor
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.types import KeySet, UpdateJob
from tests import reference_sums
from tests.scenes.purged_system import World, make_tables
from tests.system.test_exactness import FEATURES, SGD, config_for, write_table


class Crash(KeyboardInterrupt):  # what a task raises else is told as its own error
    """Stands for the end of the process."""


SCALE = dict.fromkeys(FEATURES, 0.125)


def config_of(folder: Path, table: Path, *, groups: int = 0, **policy) -> dict:
    shape = {"shards": 1, "slices": 1, "epochs": 1, "batch": 1}
    config = config_for(folder, table, optimizer=SGD, groups=groups, **shape)
    del config["optimizer"], config["sisa"]["epochs"], config["sisa"]["batch_size"]
    config["task"] = {"name": "lda"}
    config["data"]["scale"] = SCALE
    config["policy"] |= {"retention_seconds": 1e9, **policy}
    return config


def weights_of(system) -> np.ndarray | None:
    [sub] = system.registry.version().shards
    if sub.blob is None:
        return None
    assert sub.exact
    return system.site.blobs.get(sub.blob)["0.weights"].numpy()


def assert_equal(system, config, table, ids=(), groups=(), more=()):
    found, expected = weights_of(system), reference_sums.weights(table, config, ids, groups, more)
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.tobytes() == expected.tobytes()


def strategies_of(report) -> set[str]:
    return {shard["strategy"] for shard in report["shards"]}


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(data=st.data())
@pytest.mark.sampled
def test_any_sequence_of_requests_equals_training_without_the_rows(data):
    rows = data.draw(st.integers(2, 40), label="rows")
    groups = data.draw(st.sampled_from([0, 5]), label="groups")
    folder = Path(tempfile.mkdtemp())
    try:
        table = folder / "train.parquet"
        ids = write_table(table, rows, string_ids=False, groups=groups)
        config = config_of(folder, table, groups=groups)
        owners = pq.read_table(table)["user"].to_pylist() if groups else [None] * rows
        gone_ids, gone_groups = set(), set()
        with hybridmu.connect(config, executor="local") as system:
            system.train()
            assert_equal(system, config, table)
            for _ in range(3):
                named = sorted({owner for owner in owners if owner})
                people = data.draw(st.lists(st.sampled_from(named), max_size=2) if named else st.just([]))
                asked = data.draw(st.lists(st.sampled_from(ids), min_size=not people, max_size=max(1, rows // 3)))
                strategy = data.draw(st.sampled_from(["auto", "subtract", "retrain"]), label="strategy")
                after_ids, after_groups = gone_ids | {*asked}, gone_groups | {*people}
                left = [i for i, o in zip(ids, owners, strict=True) if i not in after_ids and o not in after_groups]
                if not left:
                    break
                report = system.forget(ids=asked, groups=people, strategy=strategy, wait=True)
                assert report["state"] == "SERVED"
                gone_ids, gone_groups = after_ids, after_groups
                assert_equal(system, config, table, gone_ids, gone_groups)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def scene(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 60, string_ids=False, groups=6)
    config = config_of(tmp_path, table, groups=6)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield system, config, table, ids


def test_a_row_is_subtracted_and_proven(scene):
    system, config, table, ids = scene
    report = system.forget(ids=ids[:1], strategy="subtract", wait=True)
    assert strategies_of(report) == {"subtract"}
    assert report["state"] == "SERVED"
    assert_equal(system, config, table, ids[:1])
    proof = system.verify()  # a recount of the table, in a process of its own
    assert proof["bitwise_equal"] is True


def test_a_person_in_several_generations_is_subtracted_whole(scene, tmp_path):
    system, config, table, _ = scene
    new = tmp_path / "new.parquet"
    write_table(new, 20, string_ids=False, groups=6, seed=9, start=100)
    assert system.ingest(new, wait=True)["state"] == "SERVED"
    assert_equal(system, config, table, more=(new,))
    for gone in (["u1"], ["u1", "u2"]):
        report = system.forget(groups=gone[-1:], strategy="subtract", wait=True)
        assert strategies_of(report) == {"subtract"}
        assert_equal(system, config, table, groups=gone, more=(new,))


def test_without_the_exact_sums_before_it_is_counted_again(scene):
    """What the subtraction starts from must be the exact sub-model of the rows that were live."""
    system, config, table, ids = scene
    for file in (Path(config["storage_url"]) / "lineage").rglob("*"):
        if file.is_file():
            file.unlink()
    report = system.forget(ids=ids[:2], strategy="subtract", wait=True)
    assert report["state"] == "SERVED"
    assert strategies_of(report) == {"retrain"}
    assert_equal(system, config, table, ids[:2])


@pytest.mark.parametrize("point", ["blob.stored", "lineage.recorded", "job.result", "publish.commit"])
def test_a_crash_between_subtraction_and_publication_loses_and_doubles_nothing(tmp_path, point):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 40, string_ids=False, groups=0)
    config = config_of(tmp_path, table)

    def crash() -> None:
        raise Crash

    with hybridmu.connect(config, executor="local") as system:
        system.train()
        request = system.forget(ids=ids[:3], strategy="subtract")["request_id"]
        faults.arm(point, 1, crash)
        try:
            with pytest.raises(Crash):
                system.run(until_idle=True)
        finally:
            faults.observe(None)
    with hybridmu.connect(config, executor="local") as system:
        system.run(until_idle=True)
        assert str(system.ledger.request(request).state) == "SERVED"
        assert_equal(system, config, table, ids[:3])


def test_purge_leaves_no_sums_that_held_a_row(tmp_path):
    """The old sums less the new ones are the row: every blob that held it goes, and the certificate says how."""
    ids = make_tables(tmp_path, long_ids=True, groups=0)["train"]
    table = tmp_path / "train.parquet"
    config = config_of(tmp_path, table, retention_seconds=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        world = World(system, config, table)
        before = system.registry.version().shards[0].blob
        request = world.forget(ids[:2], strategy="subtract")
        world.run()
        world.assert_nothing_left(ids[:2])
        world.assert_swept()
        [certificate] = world.assert_certified(request)
        assert [stage["strategy"] for shard in certificate["shards"] for stage in shard["stages"]] == ["subtract"]
        assert before not in system.site.blobs.listed(0)[0]
        assert_equal(system, config, table, ids[:2])


def test_an_emptied_class_is_not_answered(tmp_path):
    table = tmp_path / "train.parquet"
    random = np.random.default_rng(0)
    labels = ["yes"] * 3 + ["no"] * 30
    columns = {"id": range(33), **{name: random.normal(size=33) for name in FEATURES}, "label": labels}
    pq.write_table(pa.table(columns), table)
    config = config_of(tmp_path, table)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[0, 1, 2], strategy="subtract", wait=True)
        assert_equal(system, config, table, [0, 1, 2])
        answers = system.predict([{"a": 0.1, "b": 5.0, "c": -3.0}])["predictions"]
        assert answers[0]["label"] == "no"
        assert answers[0]["probabilities"] == {"no": 1.0, "yes": 0.0}


@pytest.fixture
def halves(tmp_path):
    """The same rows as one shard and as four, which answer as one model."""
    table = tmp_path / "train.parquet"
    ids = write_table(table, 200, string_ids=False, groups=0)
    config = config_of(tmp_path, table)
    config["data"]["test"] = str(tmp_path / "test.parquet")
    del config["data"]["test_fraction"]
    write_table(tmp_path / "test.parquet", 50, string_ids=False, groups=0, seed=4, start=900)
    other = {**config, "sisa": {**config["sisa"], "shards": 4}, "storage_url": str(tmp_path / "four")}
    with hybridmu.connect(config, executor="local") as one, hybridmu.connect(other, executor="local") as four:
        trained = [system.train() for system in (one, four)]
        yield one, four, ids, trained


def test_four_shards_answer_as_one_machine(halves):
    one, four, ids, trained = halves
    ask = [{"a": 0.3 * n, "b": 1 - 0.2 * n, "c": -0.4} for n in range(8)]

    def answers(system):
        return [row["probabilities"] for row in system.predict(ask)["predictions"]]

    assert len(four.registry.version().shards) == 4
    assert answers(one) == answers(four)
    assert trained[0]["quality"]["test"]["ensemble"] == trained[1]["quality"]["test"]["ensemble"]
    for system in (one, four):
        report = system.forget(ids=ids[:5], wait=True)
        assert report["state"] == "SERVED"
    assert answers(one) == answers(four)
    assert one.evaluate()["splits"]["test"]["ensemble"] == four.evaluate()["splits"]["test"]["ensemble"]
    proof = four.verify()
    assert proof["bitwise_equal"] is True
    assert proof["accuracy"] == proof["oracle_accuracy"]


def test_a_withheld_shard_is_left_out_of_the_sum(halves):
    _, four, _, _ = halves
    version = four.registry.version()
    whole = Ensemble.load(four.site, version)
    x = np.array([[0.04, 0.1, -0.05]], np.float32)
    less = whole.withholding(frozenset({1, 3}))
    assert (whole.voters, less.voters) == (4, 2)
    [merged], _ = answering([whole.models[shard][1] for shard in (0, 2)], "merge")
    expected = torch.softmax(merged(torch.from_numpy(x)), dim=1).numpy()
    np.testing.assert_array_equal(less.probabilities(x), expected)
    assert not np.array_equal(whole.probabilities(x), expected)
    np.testing.assert_array_equal(less.withholding(frozenset()).probabilities(x), whole.probabilities(x))


def test_what_is_revoked_while_a_subtraction_waits_is_subtracted_too(scene, monkeypatch):
    system, config, table, ids = scene
    full = True
    monkeypatch.setattr(LocalExecutor, "has_core", lambda *_: not full)
    coordinator = system.session.coordination.acquire()
    first = system.forget(ids=ids[:1], strategy="subtract")["request_id"]
    for _ in range(3):
        coordinator.step(0.0)
    second = system.forget(ids=ids[1:3], strategy="subtract")["request_id"]
    full = False
    for request in (first, second):
        system.wait(request)
        report = system.report(request)
        assert report["state"] == "SERVED"
        assert strategies_of(report) == {"subtract"}, report["shards"]
    assert_equal(system, config, table, ids[:3])


def test_an_updater_subtracts_all_that_went_or_nothing(scene):
    system, _, _, ids = scene
    keys, _ = Lookup(system.site.lake).find([("id", row) for row in ids[:2]])
    one, two = KeySet.of(keys[:1]), KeySet.of(keys[1:])
    [sub] = system.registry.version().shards
    job = UpdateJob(job_id="j", shard=0, strategy="subtract", current_blob=sub.blob, upto=2)
    updater = Updater(system.settings)
    made = updater.update(replace(job, tombstones=one, revoked=one))
    assert (made.exact, made.live) == (True, 59)
    both, none = KeySet(one | two), KeySet(())
    for tombstones, revoked, removed in ((both, one, none), (one, one, two), (two, one, none)):
        given = {"tombstones": tombstones, "revoked": revoked, "removed": removed}
        with pytest.raises(StrategyUnavailableError):
            updater.update(replace(job, **given))
