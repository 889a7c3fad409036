"""The gradient by hand is bitwise autograd's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hybridmu.core.kernel.gradients import gradients_of, plain_layers
from hybridmu.core.kernel.model import initial_model
from hybridmu.core.kernel.training import Recipe, make_step
from hybridmu.task import Cnn, CrossEntropyTask, Linear, Mlp


def autograd(model, task, x, y):
    return torch.autograd.grad(task.loss(model(x), y), list(model.parameters()))


@given(
    features=st.integers(1, 300),
    hidden=st.lists(st.integers(1, 150), max_size=2),
    classes=st.integers(2, 12),
    batch=st.integers(1, 70),
    standardize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_by_hand_equals_autograd_bit_for_bit(features, hidden, classes, batch, standardize, seed):
    torch.set_num_threads(1)
    task = Mlp(hidden) if hidden else Linear()
    model = initial_model(task, features=features, classes=classes, standardize=standardize, seed=seed, shard=0)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, features, generator=generator)
    y = torch.randint(0, classes, (batch,), generator=generator)
    if standardize:
        model[0].fit(x)
    assert plain_layers(model) is not None
    found = gradients_of(model, task, list(model.parameters()))(x, y)
    for ours, theirs in zip(found, autograd(model, task, x, y), strict=True):
        assert ours.shape == theirs.shape
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


class OtherLoss(Mlp):
    def loss(self, logits, labels):
        return nn.functional.multi_margin_loss(logits, labels)


class NoBias(CrossEntropyTask):
    def model(self, features, classes):
        return nn.Sequential(nn.Linear(features, classes, bias=False))


@pytest.mark.parametrize("task", [OtherLoss([4]), NoBias(), Cnn(shape=[1, 4, 4], width=8, stages=1)])
def test_anything_else_goes_through_autograd(task):
    model = initial_model(task, features=16, classes=3, standardize=False, seed=0, shard=0)
    x, y = torch.randn(5, 16), torch.tensor([0, 1, 2, 0, 1])
    found = gradients_of(model, task, list(model.parameters()))(x, y)
    for ours, theirs in zip(found, autograd(model, task, x, y), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_sgd_steps_equal_torch_optim_bit_for_bit(momentum, decay):
    torch.manual_seed(0)
    ours = [torch.randn(7, 3, requires_grad=True), torch.randn(7, requires_grad=True)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    step = make_step(ours, Recipe((1,), 4, 0, lr=0.1, momentum=momentum, weight_decay=decay))
    optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=decay)
    for number in range(6):
        rate = 0.1 * (1 - number / 6)
        gradients = [torch.randn_like(p) for p in ours]
        step([g.clone() for g in gradients], rate)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
