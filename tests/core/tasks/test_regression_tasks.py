"""Tasks that learn numbers: losses against torch's, their curvature against autograd's, options and who may be one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from hybridmu.code_digest import OF_NUMBERS, code_digest
from hybridmu.core.tasks.regression_tasks import RegressionTask, Regressor, TargetScale, fit_targets
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError
from hybridmu.task import Linear, Mlp

LOSSES = [{"loss": "mse"}, {"loss": "huber", "delta": 0.6}, {"loss": "huber"}, {"loss": "quantile", "quantile": 0.9}]


class Wide(RegressionTask):
    """A task of a user's own."""

    def network(self, features, outputs):
        return nn.Linear(features, outputs)


class Blunt(RegressionTask):
    def network(self, features, outputs):
        return nn.Linear(features, 3)


def rows_of(seed, rows=6):
    random = torch.Generator().manual_seed(seed)
    z, targets = torch.randn(rows, 1, generator=random), 40 + 10 * torch.randn(rows, generator=random)
    scale = TargetScale()
    scale.fit(40 + 10 * torch.randn(50, generator=random))
    return scale(z), targets, z, scale


@given(st.integers(0, 2**31), st.sampled_from(LOSSES))
@settings(max_examples=60, deadline=None)
def test_losses_are_torchs_of_scaled_targets(seed, options):
    answers, targets, z, scale = rows_of(seed)
    scaled = ((targets - scale.mean) / scale.deviation)[:, None]
    found = RegressionTask(**options).loss(answers, targets)
    if options["loss"] == "mse":
        expected = functional.mse_loss(z, scaled)
    elif options["loss"] == "huber":
        expected = functional.huber_loss(z, scaled, delta=options.get("delta", 1.0))
    else:
        over = scaled - z
        expected = torch.where(over > 0, options["quantile"] * over, (options["quantile"] - 1) * over).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


@given(st.integers(0, 2**31), st.sampled_from([one for one in LOSSES if one["loss"] != "quantile"]))
@settings(max_examples=40, deadline=None)
def test_bends_are_the_second_derivatives_of_the_loss(seed, options):
    answers, targets, *_ = rows_of(seed)
    task = RegressionTask(**options)
    for row in range(len(targets)):
        unit = answers[row, 1]

        def loss(value, row=row, unit=unit):
            return task.loss(torch.stack([value, unit])[None], targets[row : row + 1])

        expected = torch.autograd.functional.hessian(loss, answers[row, 0].detach())
        found = task.bends(answers[row : row + 1], targets[row : row + 1])
        assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-7)


def test_the_pinball_loss_has_no_curvature():
    with pytest.raises(ConfigError, match="no curvature"):
        RegressionTask(loss="quantile").bends(torch.ones(2, 2), torch.zeros(2))


@pytest.mark.parametrize("targets", [[], [3.0], [2.0, 2.0], [1.0, 5.0]])
def test_the_scale_is_fitted_as_the_one_of_features(targets):
    from hybridmu.core.kernel.model import Standardize

    ours, theirs, given_ = TargetScale(), Standardize(1), torch.tensor(targets)
    fit_targets(nn.Sequential(nn.Linear(2, 1), ours), given_)
    theirs.fit(given_[:, None])
    assert (ours.mean, ours.deviation) == (theirs.mean[0], theirs.deviation[0])


def test_a_model_without_a_scale_is_left_alone():
    fit_targets(Linear().model(2, 3), torch.ones(4))


def test_built_in_networks_learn_numbers_too():
    for name, options in (("linear", {}), ("mlp", {"hidden": [3]}), ("cnn", {"shape": [1, 4, 4], "width": 8})):
        task = make_task(name, {**options, "loss": "huber", "delta": 2}, targets=("y",))
        assert isinstance(task, Regressor)
        assert task.model(16, 1)(torch.zeros(5, 16)).shape == (5, 2)


WRONG = [
    ("mlp", {"loss": "log"}, True, "one of mse, huber, quantile"),
    ("mlp", {"delta": 2.0}, True, "task.delta belongs to loss: huber"),
    ("mlp", {"loss": "huber", "quantile": 0.5}, True, "task.quantile belongs to loss: quantile"),
    ("mlp", {"loss": "huber", "delta": 0}, True, "above 0 and up to 1e6"),
    ("mlp", {"loss": "quantile", "quantile": 1}, True, "above 0 and below 1"),
    ("mlp", {"loss": "quantile", "quantile": True}, True, "above 0 and below 1"),
    ("mlp", {"width": 3}, True, "does not take these options"),
    ("mlp", {"loss": "mse"}, False, "does not take these options"),
    (f"{__name__}:Wide", {}, False, "hybridmu.task.CrossEntropyTask"),
    ("tests.core.tasks.test_classification:Judged", {}, True, "hybridmu.task.RegressionTask"),
]


@pytest.mark.parametrize(("name", "options", "numbers", "says"), WRONG)
def test_what_does_not_fit_is_refused(name, options, numbers, says):
    with pytest.raises(ConfigError) as error:
        make_task(name, options, targets=("y",) if numbers else ())
    assert says in str(error.value)


def test_a_network_with_several_outputs_says_so():
    with pytest.raises(ValueError, match=r"\[rows, 1\], not \[4, 3\]"):
        Blunt().model(2, 1)(torch.zeros(4, 2))


def test_the_losses_are_in_the_keys_of_what_learns_numbers_alone(monkeypatch):
    def digests():
        tasks = make_task("mlp", {}, targets=("y",)), Wide(), Mlp()
        return [code_digest(task) for task in tasks]

    before = digests()
    monkeypatch.setitem(OF_NUMBERS, "target scale", "tasks/networks.py")
    unknown = digests()
    assert [one == two for one, two in zip(before, unknown, strict=True)] == [False, False, True]
