"""Task `ridge` of several numbers: its scales, its loss, and what it costs others' checkpoints, which is nothing."""

from __future__ import annotations

import pytest
import torch

from hybridmu.code_digest import OF_SEVERAL, code_digest
from hybridmu.core.tasks.ridge_of_targets import RidgeOfTargets
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError

TWO = ("price", "rent")


def test_a_scale_is_of_each_target_or_of_all():
    said = make_task("ridge", {"target_scale": {"rent": 0.25, "price": 2.0**-20}}, targets=TWO)
    assert said.target_scales == (2.0**-20, 0.25)
    assert make_task("ridge", {"target_scale": 0.5}, targets=TWO).target_scales == (0.5, 0.5)
    assert make_task("ridge", {}, targets=TWO).target_scales == (1.0, 1.0)
    model = said.model(3, 2)
    assert model(torch.zeros(5, 3)).shape == (5, 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_scale": {"price": 1.0}}, "price, rent"),
        ({"target_scale": {"price": 1.0, "rent": 1.0, "id": 1.0}}, "every target, and of nothing else"),
        ({"target_scale": {}}, "got: none"),
        ({"target_scale": {"price": 1.0, "rent": 0}}, "task.target_scale is wrong"),
        ({"target_scale": {"price": True, "rent": 1.0}}, "task.target_scale is wrong"),
        ({"target_scale": "1"}, "task.target_scale is wrong"),
        ({"targets": ["a"]}, "does not take these options"),
        ({"penalty": -1}, "task.penalty is wrong"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(ConfigError) as error:
        make_task("ridge", options, targets=TWO)
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["mlp", "linear", "cnn", "tests.core.tasks.test_regression_tasks:Wide"])
def test_what_learns_one_number_says_who_learns_several(name):
    with pytest.raises(ConfigError) as error:
        make_task(name, {}, targets=TWO)
    for words in ("learns one number", "ridge", "models link"):
        assert words in str(error.value)


def test_the_loss_is_the_mean_over_targets_in_their_units():
    task = RidgeOfTargets(TWO)
    answers = torch.tensor([[3.0, 2.0, 70.0, 10.0], [5.0, 2.0, 90.0, 10.0]])
    assert float(task.loss(answers, torch.tensor([[3.0, 70.0], [4.0, 80.0]]))) == pytest.approx((0.25 + 1.0) / 4)


def test_its_code_is_in_its_own_keys_alone(monkeypatch):
    tasks = [make_task("ridge", {}, targets=targets) for targets in (TWO, TWO[:1], ())]
    before = [code_digest(task) for task in tasks]
    monkeypatch.setitem(OF_SEVERAL, "several targets", "tasks/networks.py")
    after = [code_digest(task) for task in tasks]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True]
