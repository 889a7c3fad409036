"""`upgrade --plan`: what other code and libraries cost in lost checkpoints; it never changes anything."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.planning.checkpoint_retention import ShardCheckpoints
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.upgrade_impact import Package, plan_upgrade
from tests.runtime.coordinator.test_checkpoint_keeper import by_place, mean_visits
from tests.system.test_exactness import SGD, config_for, write_table

TASK = """
import sklearn
from hybridmu.task import Mlp

class Task(Mlp):
    pass
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 60, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=3, epochs=3, batch=4, optimizer=SGD, groups=0)
    (tmp_path / "a_task_of_the_user.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_task_of_the_user", raising=False)  # that of another test
    config["task"] = {"name": "a_task_of_the_user:Task", "hidden": [4]}
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield system, config, ids


@pytest.mark.slow
def test_the_same_environment_loses_nothing(trained):
    system, _, ids = trained
    plan = system.upgrade()
    assert (plan.lost, plan.kept, plan.packages) == (0, 6, ())
    assert plan.visits_before == plan.visits_after == pytest.approx(mean_visits(system, ids))
    assert plan.explain().startswith(
        "With the code and libraries installed here, no checkpoint is lost.\nshard 0: 3 kept"
    )


@pytest.mark.slow
def test_an_upgrade_that_really_happened_is_counted_right(trained, tmp_path):
    system, config, ids = trained
    before = mean_visits(system, ids)
    files = system.site.storage.list()
    (tmp_path / "a_task_of_the_user.py").write_text(f"{TASK}RELEASE = 2\n")
    with hybridmu.connect(config, executor="local") as other:
        plan = other.upgrade()
        assert (plan.lost, plan.kept) == (6, 0)
        assert plan.visits_before == pytest.approx(before)
        assert plan.visits_after == pytest.approx(mean_visits(other, ids))
        assert plan.visits_after > plan.visits_before
        assert system.site.storage.list("lineage") == [f for f in files if f.name.startswith("lineage/")]
        assert system.status()["version"] == 1
        system.close()  # gives the lease back
        other.forget(ids=by_place(other, ids)[0, 3][:1], strategy="retrain", wait=True)
        after = other.upgrade()
        assert [(s.kept, s.lost) for s in after.shards] == [(3, 0), (0, 3)]  # shard 0 was made anew


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("torch", True), ("NumPy", True), ("scikit_learn", True), ("pyarrow", False), ("no-such-package", False)],
)
@pytest.mark.sampled
def test_only_what_names_a_checkpoint_costs_any(trained, name, shapes):
    plan = trained[0].upgrade({name: "99.0"})
    assert plan.packages[0].shapes is shapes
    assert (plan.lost, plan.kept) == ((6, 0) if shapes else (0, 6))
    assert ("is not part of what names a checkpoint" in plan.explain()) is not shapes


@pytest.mark.slow
def test_the_installed_version_costs_nothing_with_or_without_its_build(trained):
    for version in {torch.__version__, torch.__version__.partition("+")[0]}:
        assert trained[0].upgrade({"torch": version}).lost == 0


def test_the_plan_explains_itself():
    shards = [ShardCheckpoints(s, (2, 2), (10, 10), (True, True), 100, clean=2) for s in range(2)]
    cost = CostModel({"retrain": Coefficients(per_visit=0.01, per_checkpoint=0.0)})
    plan = plan_upgrade(
        shards, {1}, cost, [Package("torch", "2.13.0", "2.14.0", True), Package("rich", None, "1", False)]
    )
    # By hand: a row of slice 1 costs 2·9 + 2·19 = 56 visits; one of slice 2 costs 38, without a checkpoint 58.
    assert plan.explain() == (
        "With torch 2.14.0 (here: 2.13.0), 2 of 4 checkpoint(s) are lost: no retrain can start from them.\n"
        "The live sub-models stay and go on answering; their bits can't be proven there by a new training.\n"
        "The next deletion of one row is expected to retrain 52 sample visits (0.52 s on one worker) instead of 47 "
        "(0.47 s). The first one in a shard makes its checkpoints again.\n"
        "Retraining the 1 shard(s) that lose checkpoints takes 60 sample visits (0.6 s on one worker), once.\n"
        "rich is not part of what names a checkpoint.\n"
        "shard 0: 2 kept, 0 lost; first deletion 47 visits, 0.47 s (before: 47, 0.47 s)\n"
        "shard 1: 0 kept, 2 lost; first deletion 57 visits, 0.57 s (before: 47, 0.47 s)"
    )


def test_the_command(trained, tmp_path):
    _, config, _ = trained
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))

    def run(*words: str):
        return CliRunner().invoke(app, ["upgrade", "-c", str(file), *words])

    assert "no checkpoint is lost" in run("--plan").output
    shown = run("--plan", "--with", "torch==9.9", "--with", "numpy=9.9")
    assert shown.exit_code == 0
    assert "With torch 9.9 (here: " in shown.output
    document = json.loads(run("--plan", "--with", "torch=9.9", "--json").stdout)
    assert (document["lost"], len(document["shards"])) == (6, 2)
    assert document["visits_after"] > document["visits_before"]
    assert min(document["seconds_after"], document["seconds_before"], document["seconds_anew"]) > 0
    for words in (("--with", "torch=9"), ("--plan", "--with", "torch"), ("--plan", "--with", "=1")):
        assert run(*words).exit_code == 2
