"""Counting: a sub-model of integer sums is a function of its live rows alone, and subtraction reaches it exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hybridmu.core.closed_form.closed_form_model import closed_form_of
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.learners import get as learner
from hybridmu.core.strategies import get
from hybridmu.core.tasks.closed_form_tasks import RidgeOfNumbers
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError, StrategyUnavailableError
from hybridmu.task import Mlp
from hybridmu.types import ShardStats, Workload
from tests.scenes.shard_in_memory import CLASSES, FEATURES, Trained, make_rows

TASKS = [
    ("lda", {}),
    ("ridge", {}),
    ("lda", {"project": 12}),
    ("ridge", {"levels": 127, "penalty": 0.5}),
    ("lda", {"penalty": "auto"}),
    ("ridge", {"penalty": "auto"}),
    ("naive-bayes", {}),
    ("naive-bayes", {"bins": 2, "smoothing": 0.01}),
]


@dataclass(frozen=True, eq=False)
class Counted(Trained):
    """A shard that is counted."""

    def fresh_model(self) -> SubModel:
        return learner("additive").initial(
            self.task, features=FEATURES, classes=CLASSES, standardize=False, seed=self.recipe.seed, shard=0
        )


def shard(task="lda", options=None, rows=120, slices=2) -> Counted:
    table = make_rows(rows, slices=slices)
    table = replace(table, x=table.x / 8)
    recipe = Recipe((1,) * slices, batch_size=1, seed=3)
    found = Counted(table, make_task(task, options or {}), recipe, {slices: {}})
    none = found.context(np.zeros(rows, np.bool_), checkpoint=lambda _: None, learner=learner("additive"))
    get("retrain").run(replace(none, save=lambda slice_, state, _: found.states.update({slice_: state})))
    return found


def without(found: Counted, gone: np.ndarray, **changes):
    return found.context(gone, learner=learner("additive"), **changes)


def oracle(found: Counted, gone: np.ndarray):
    return get("retrain").run(without(found, gone, checkpoint=lambda _: None)).state


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("task", "options"), TASKS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_subtraction_is_a_recount(task, options, share):
    found = shard(task, options)
    gone = np.random.default_rng(1).random(120) < share
    gone[0] = True
    made = get("subtract").run(without(found, gone))
    assert equal(made.state, oracle(found, gone))
    assert made.visits == int(gone.sum())


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_it_learns(task, options):
    found = shard(task, options, rows=600)
    model = found.model()
    held = make_rows(400, seed=7)
    accuracy = float((model(held.x / 8).argmax(dim=1) == held.y).float().mean())
    assert accuracy > 0.6


def test_one_checkpoint_holds_all():
    found = shard()
    assert [slice_ for slice_, state in found.states.items() if state] == [2]
    again = get("retrain").run(without(found, np.zeros(120, np.bool_)))
    assert (again.visits, again.first_slice) == (0, 3)
    assert equal(again.state, found.states[2])


def test_a_shard_loses_all_rows_but_one():
    found = shard()
    gone = np.ones(120, np.bool_)
    gone[7] = False
    assert equal(get("subtract").run(without(found, gone)).state, oracle(found, gone))


def test_sums_of_other_rows_are_not_subtracted_from():
    found = shard()
    gone = np.zeros(120, np.bool_)
    gone[:3] = True
    context = without(found, gone)
    with pytest.raises(StrategyUnavailableError, match="of other rows"):
        get("subtract").run(replace(context, live=context.live.take(np.arange(50))))


def test_seeds_and_orders_change_no_bit():
    found, gone = shard(), np.zeros(120, np.bool_)
    other = replace(found, recipe=replace(found.recipe, seed=99))
    assert equal(oracle(other, gone), oracle(found, gone))
    shuffled = replace(found, rows=found.rows.take(np.random.default_rng(0).permutation(120)))
    assert equal(oracle(shuffled, gone), oracle(found, gone))


def test_it_needs_a_closed_form_task():
    with pytest.raises(ConfigError, match="learner additive needs a closed-form task"):
        learner("additive").initial(Mlp([3]), features=2, classes=2, standardize=False, seed=0, shard=0)


def test_too_many_rows_for_the_levels_are_refused(monkeypatch):
    monkeypatch.setattr("hybridmu.core.closed_form.exact_products._LARGEST", 100 * 32_767**2)
    with pytest.raises(ConfigError, match="sums of a shard") as error:
        shard()
    assert "100 fit" in str(error.value)


@pytest.mark.parametrize("task", ["lda", "ridge"])
def test_a_penalty_that_leaves_62_bits_is_refused(task):
    with pytest.raises(ConfigError, match="the penalty is too large"):
        shard(task, {"penalty": 1e6}, rows=160_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"penalty": 0}, "task.penalty is wrong"),
        ({"penalty": float("nan")}, "task.penalty is wrong"),
        ({"penalty": True}, "task.penalty is wrong"),
        ({"levels": 40_000}, "task.levels is wrong"),
        ({"levels": 0}, "task.levels is wrong"),
        ({"project": -1}, "task.project is wrong"),
        ({"project": 20_000}, "task.project is wrong"),
        ({"project_seed": -1}, "task.project_seed is wrong"),
        ({"penalty": "best"}, "task.penalty is wrong"),
        ({"hidden": [3]}, "does not take these options"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(ConfigError, match=says):
        make_task("lda", options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bins": 1}, "task.bins is wrong"),
        ({"bins": 31}, "an even number"),
        ({"bins": True}, "task.bins is wrong"),
        ({"bins": 512}, "task.bins is wrong"),
        ({"smoothing": 0}, "task.smoothing is wrong"),
        ({"smoothing": float("nan")}, "task.smoothing is wrong"),
        ({"penalty": 1.0}, "does not take these options"),
    ],
)
def test_wrong_options_of_naive_bayes(options, says):
    with pytest.raises(ConfigError, match=says):
        make_task("naive-bayes", options)


def test_a_closed_form_task_learns_classes():
    with pytest.raises(ConfigError, match="task lda learns classes alone"):
        make_task("lda", {}, targets=("y",))
    assert isinstance(make_task("ridge", {"target_scale": 0.5}, targets=("y",)), RidgeOfNumbers)
    for name, options in (("ridge", {"target_scale": 0.5}), ("lda", {"target_scale": 0.5})):
        with pytest.raises(ConfigError, match="target_scale"):
            make_task(name, options)
    for scale in (0, -1.0, True, "1", float("nan"), 2.0**200):
        with pytest.raises(ConfigError, match=r"task\.target_scale"):
            make_task("ridge", {"target_scale": scale}, targets=("y",))


def test_so_many_features_are_refused_with_the_memory_that_they_take():
    with pytest.raises(ConfigError, match="80 GB"):
        make_task("lda", {}).model(100_000, 2)
    with pytest.raises(ConfigError, match="too many features for the counts"):
        make_task("naive-bayes", {}).model(1_000_000, 10)


def test_the_workload_is_one_look_at_every_live_row():
    count = learner("additive").workload
    fresh = ShardStats(0, (1, 1), (10, 20), (0, 3), (0, 2), (False, True))
    assert count(fresh) == Workload(2, 1, 27, 27, 2, 2)
    done = ShardStats(0, (1, 1), (10, 20), (0, 0), (0, 0), (False, True))
    assert count(done) == Workload(3, 3, 0, 30, 3, 0)


def test_a_model_without_a_row_answers_alike():
    for task, options in TASKS:
        model = make_task(task, options).model(FEATURES, CLASSES)
        answers = model(make_rows(5).x)
        assert bool((answers == answers[:, :1]).all())
        assert closed_form_of(model).held.rows == 0
