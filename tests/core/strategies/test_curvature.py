"""Gauss-Newton products against the matrix itself, and the solver against an exact one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.gradients import plain_layers
from hybridmu.core.kernel.model import initial_model
from hybridmu.core.strategies import curvature
from hybridmu.core.strategies.curvature import gauss_newton, solve
from hybridmu.core.tasks.regression_tasks import fit_targets
from hybridmu.core.tasks.task_making import make_task
from hybridmu.task import Cnn, Linear, Mlp


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts])


def like(model, vector):
    parts, at = [], 0
    for parameter in model.parameters():
        parts.append(vector[at : at + parameter.numel()].reshape(parameter.shape))
        at += parameter.numel()
    return parts


def dense(model, x):
    """Return G, one row of the Jacobian at a time."""
    parameters = list(model.parameters())
    total = 0.0
    for row in x:
        logits = model(row[None])[0]
        jacobian = torch.stack([
            flat(torch.autograd.grad(logit, parameters, retain_graph=True)) for logit in logits
        ]).double()
        p = logits.detach().double().softmax(0)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(x)


@given(
    hidden=st.lists(st.integers(1, 7), max_size=2),
    classes=st.integers(2, 4),
    rows=st.integers(1, 6),
    standardize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_product_by_hand_is_the_matrix_times_the_vector(hidden, classes, rows, standardize, seed):
    task = Mlp(hidden) if hidden else Linear()
    model = initial_model(task, features=5, classes=classes, standardize=standardize, seed=seed, shard=0)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    if standardize:
        model[0].fit(x)
    size = sum(parameter.numel() for parameter in model.parameters())
    vector = torch.randn(size, generator=generator)
    assert plain_layers(model) is not None
    expected = dense(model, x) @ vector.double()
    for product in (gauss_newton(model, x), curvature._by_autograd(model, x)):
        found = product(like(model, vector))
        assert [part.shape for part in found] == [parameter.shape for parameter in model.parameters()]
        assert torch.allclose(flat(found).double(), expected, atol=1e-4, rtol=1e-3)


@given(loss=st.sampled_from(["mse", "huber"]), rows=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_of_numbers_the_matrix_is_the_jacobians_square_weighed_by_the_loss(loss, rows, seed):
    task = make_task("mlp", {"hidden": [4], "loss": loss}, targets=("y",))
    model = initial_model(task, features=5, classes=1, standardize=False, seed=seed, shard=0).eval()
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, 5, generator=generator), 30 + 9 * torch.randn(rows, generator=generator)
    fit_targets(model, y)
    unit = float(model(x[:1])[0, 1].detach())
    parameters, expected = list(model.parameters()), 0.0
    for row, target in zip(x, y, strict=True):
        value = model(row[None])[0, 0]
        jacobian = flat(torch.autograd.grad(value, parameters)).double() / unit  # of z
        residual = abs(float(value.detach()) - float(target)) / unit
        weight = 2.0 if loss == "mse" else float(residual <= 1.0)
        expected = expected + weight * torch.outer(jacobian, jacobian) / rows
    vector = torch.randn(len(expected), generator=generator)
    product = gauss_newton(model, x, lambda answers: task.bends(answers, y))
    found = flat(product(like(model, vector))).double()
    assert torch.allclose(found, expected @ vector.double(), atol=1e-4, rtol=1e-3)


def test_any_other_network_goes_through_autograd():
    model = initial_model(
        Cnn(shape=[1, 4, 4], width=8, stages=1), features=16, classes=3, standardize=False, seed=0, shard=0
    )
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    vector = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(1))
    found = flat(gauss_newton(model, x)(like(model, vector))).double()
    expected = dense(model, x) @ vector.double()
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-3)


@given(st.integers(1, 6), st.floats(0, 100), st.integers(0, 2**31))
def test_enough_steps_solve_exactly(size, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T, torch.randn(size, generator=generator, dtype=torch.float64)
    found = solve(lambda v: [matrix @ v[0]], [right], shift, 40)[0]
    exact = torch.linalg.solve(torch.eye(size, dtype=torch.float64) + shift * matrix, right)
    assert torch.allclose(found, exact, atol=1e-4, rtol=1e-3)


def test_every_step_comes_nearer_in_the_energy_norm():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T, torch.randn(12, generator=generator, dtype=torch.float64)
    whole = torch.eye(12, dtype=torch.float64) + matrix
    exact = torch.linalg.solve(whole, right)

    def distance(steps):
        off = solve(lambda v: [matrix @ v[0]], [right], 1.0, steps)[0] - exact
        return float(off @ whole @ off)

    distances = [distance(steps) for steps in range(8)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == pytest.approx(float(exact @ whole @ exact))


def test_without_curvature_nothing_is_damped_and_zero_stays_zero():
    right = [torch.ones(3)]
    assert torch.equal(solve(lambda v: [torch.zeros(3)], right, 5.0, 3)[0], right[0])
    assert torch.equal(solve(lambda v: v, [torch.zeros(3)], 5.0, 3)[0], torch.zeros(3))
