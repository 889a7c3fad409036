"""Quality of versions: what an independent computation gives, on rows that are not forgotten, asked once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from hybridmu.core.kernel.rows import Rows
from hybridmu.runtime.workers.version_evaluator import VersionEvaluator
from hybridmu.types import NO_KEYS, EvaluateJob, KeySet
from tests.support import local_system, make_table, table, write


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    make_table(folder / "train.parquet", 240, groups=60)
    write(folder, table(80, start=1000, seed=1, groups=60), "test.parquet")
    data = {"test": str(folder / "test.parquet"), "group": "person", "validation_fraction": 0.2}
    with local_system(folder, data=data, evaluation={"rows": 50}) as made:
        made.train()
        yield made


def job(system, gone=NO_KEYS, version=1):
    voters = tuple((sub.shard, sub.blob) for sub in system.registry.version(version).shards if sub.blob)
    return EvaluateJob(job_id="j", version=version, sub_models=voters, tombstones=gone)


def everything(system):
    """Let all rows be asked about."""
    evaluation = system.settings.evaluation.model_copy(update={"rows": None})
    system.site.settings = system.site.settings.model_copy(update={"evaluation": evaluation})
    return VersionEvaluator(system.site)


def ids_of(system, split):
    return {row.tobytes() for shard in range(4) for row in system.site.lake.keys(split, shard).ids}


def test_figures_are_those_of_what_the_model_answers(system):
    found = everything(system).evaluate(job(system)).quality
    assert [(one.split, one.rows) for one in found.splits] == [
        ("validation", len(ids_of(system, "validation"))),
        ("test", 80),
    ]
    source = table(80, start=1000, seed=1, groups=60)
    rows = [{f"x{i}": row[f"x{i}"] for i in range(4)} for row in source.to_pylist()]
    answers = system.predict(rows)["predictions"]
    labels = source["label"].to_pylist()
    tested = found.on("test").ensemble
    assert tested["accuracy"] == pytest.approx(np.mean([a["label"] == b for a, b in zip(answers, labels, strict=True)]))
    told = np.array([list(answer["probabilities"].values()) for answer in answers])
    assert tested["log_loss"] == pytest.approx(theirs.log_loss(labels, told, labels=range(3)), rel=1e-5)
    assert found.on("test").sub_models.keys() == {0, 1, 2, 3}
    assert found.seconds > 0


def test_a_sub_model_that_did_not_change_is_not_asked_again(system, monkeypatch):
    evaluator, loaded = everything(system), []
    load = system.site.load_model
    monkeypatch.setattr(system.site, "load_model", lambda shard, blob: loaded.append(shard) or load(shard, blob))
    first = evaluator.evaluate(job(system)).quality
    assert sorted(set(loaded)) == [0, 1, 2, 3]
    loaded.clear()
    other = system.registry.version(1).shards[1].checkpoints[0].blob  # an earlier state of shard 1
    asked = job(system)
    changed = tuple((shard, other if shard == 1 else blob) for shard, blob in asked.sub_models)
    second = evaluator.evaluate(EvaluateJob(job_id="k", version=2, sub_models=changed)).quality
    assert set(loaded) == {1}
    fresh = everything(system).evaluate(EvaluateJob(job_id="k", version=2, sub_models=changed)).quality
    assert second.splits == fresh.splits
    assert second.on("test").sub_models[0] == first.on("test").sub_models[0]
    assert second.on("test").sub_models[1] != first.on("test").sub_models[1]


def test_a_revoked_row_is_not_asked_about_and_leaves_memory(system, monkeypatch):
    evaluator = everything(system)
    before = evaluator.evaluate(job(system)).quality.on("test").rows
    going = sorted(ids_of(system, "test"))[:3]
    seen: list[Rows] = []
    from hybridmu.core import evaluation

    told = evaluation.logits_of
    monkeypatch.setattr(evaluation, "logits_of", lambda model, rows, n: seen.append(rows) or told(model, rows, n))
    gone = KeySet(("id", one) for one in going)
    found = evaluator.evaluate(job(system, gone)).quality
    assert found.on("test").rows == before - 3
    assert not seen, "what is known of the rows that stay is kept"
    assert not {row.tobytes() for row in evaluator._held["test"].rows.ids} & set(going)
    fresh = everything(system)
    assert fresh.evaluate(job(system, gone)).quality.splits == found.splits
    assert not {row.tobytes() for rows in seen for row in rows.ids} & set(going)


def test_of_many_rows_the_same_ones_are_drawn_every_time(system):
    system.site.settings = system.settings
    evaluator = VersionEvaluator(system.site)
    found = evaluator.evaluate(job(system)).quality
    assert found.on("test").rows == 50
    drawn = [row.tobytes() for row in evaluator._held["test"].rows.ids]
    other = VersionEvaluator(system.site)
    assert other.evaluate(job(system)).quality.splits == found.splits
    gone = KeySet([("id", drawn[0])])
    assert other.evaluate(job(system, gone)).quality.on("test").rows == 50
    now = {row.tobytes() for row in other._held["test"].rows.ids}
    assert len(now - set(drawn)) == 1, "another one takes the place of the row that went"
    assert set(drawn) - now == {drawn[0]}


def test_without_live_rows_there_is_no_figure(system):
    gone = KeySet(("id", one) for split in ("test", "validation") for one in ids_of(system, split))
    assert everything(system).evaluate(job(system, gone)).quality.splits == ()


def test_too_many_answers_are_not_kept(system, monkeypatch):
    monkeypatch.setattr("hybridmu.runtime.workers.version_evaluator._KEPT_BYTES", 1)
    evaluator = everything(system)
    found = evaluator.evaluate(job(system)).quality
    assert evaluator._held == {}
    assert evaluator.evaluate(job(system)).quality.splits == found.splits
