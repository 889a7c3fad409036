"""Tasks that learn numbers: losses of residuals, and the scale of targets that a sub-model carries.

Targets may be prices or years, and a network learns best what is about 1. So every sub-model works on
z = (target − m) / d, with m and d the mean and deviation of the targets of the live rows of its shard's slice 1. They
are fitted once and part of every checkpoint, as the scaler of features is (ADR 0013).

This file shapes weights: its syntax tree is in the keys of the checkpoints of regression systems alone
(`hybridmu/code_digest.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.judgement import Judgement
from hybridmu.core.tasks.regression import Regression
from hybridmu.errors import ConfigError

_LOSSES = ("mse", "huber", "quantile")


class TargetScale(nn.Module):
    """From z, [batch, 1], to the value m + d·z and its unit d, float32 [batch, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def fit(self, targets: Tensor) -> None:
        """Set the buffers from float32 [n]; identity when n is 0; equal targets keep deviation 1."""
        if len(targets):
            wide = targets.double()
            deviation = wide.std(correction=0)
            self.mean.copy_(wide.mean())
            self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, z: Tensor) -> Tensor:
        """Return value and unit.

        Raises:
            ValueError: The network has not one output.
        """
        if z.dim() != 2 or z.shape[1] != 1:
            raise ValueError(f"a network that learns numbers gives [rows, 1], not {list(z.shape)}")
        value = z[:, 0].float() * self.deviation + self.mean
        return torch.stack([value, self.deviation.expand_as(value)], dim=1)


def fit_targets(model: nn.Module, targets: Tensor) -> None:
    """Fit the scale of targets, where a model has one.

    Args:
        model: A sub-model; its buffers change.
        targets: Those of the live rows of slice 1, [n].
    """
    for module in model.modules():
        if isinstance(module, TargetScale):
            module.fit(targets)


class RegressionTask:
    """Base of tasks that learn numbers. A derived one has `network`.

    Args:
        loss: Of the residual r = (value − target) / d: `mse` is the mean of r²; `huber` that of r²/2 up to `delta` and
            of delta·(|r| − delta/2) beyond; `quantile` the pinball loss, whose minimum is the quantile.
        delta: Of `huber`; 1 by default.
        quantile: Of `quantile`, above 0 and below 1; 0.5, the median, by default.
    """

    judgement: ClassVar[Judgement] = Regression()
    _form: str = "mse"
    _delta: float = 1.0
    _quantile: float = 0.5

    def __init__(self, loss: str = "mse", delta: float | None = None, quantile: float | None = None) -> None:
        if loss not in _LOSSES:
            raise ConfigError("task.loss is wrong", expected=f"one of {', '.join(_LOSSES)}", got=repr(loss)[:100])
        for name, value, fits, bounds in (
            ("delta", delta, _number(delta, 1e6), "a number above 0 and up to 1e6"),
            ("quantile", quantile, _number(quantile, 1.0) and quantile != 1, "a number above 0 and below 1"),
        ):
            if value is None:
                continue
            of = "huber" if name == "delta" else name
            if loss != of:
                raise ConfigError(f"task.{name} belongs to loss: {of}", got=f"loss: {loss}", remedy="leave it out")
            if not fits:
                raise ConfigError(f"task.{name} is wrong", expected=bounds, got=repr(value)[:100])
        self._form = loss
        self._delta = self._delta if delta is None else float(delta)
        self._quantile = self._quantile if quantile is None else float(quantile)

    def network(self, features: int, outputs: int) -> nn.Module:
        """Return a new module mapping float32 [batch, features] to [batch, outputs].

        Args:
            features: Encoded width.
            outputs: 1.

        Raises:
            NotImplementedError: A derived task has to say.
        """
        raise NotImplementedError("a task that learns numbers has a method `network`")

    def model(self, features: int, classes: int) -> nn.Module:
        """Return the network with the scale of targets behind it."""
        return nn.Sequential(self.network(features, classes), TargetScale())

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of values and units [batch, 2] against float32 [batch]."""
        r = (answers[:, 0] - targets) / answers[:, 1]
        if self._form == "huber":
            return functional.huber_loss(r, torch.zeros_like(r), delta=self._delta)
        if self._form == "quantile":
            return torch.maximum(-self._quantile * r, (1 - self._quantile) * r).mean()
        return r.square().mean()

    def bends(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the second derivative of every row's loss by its value, float32 [batch].

        Args:
            answers: float32 [batch, 2].
            targets: float32 [batch].

        Returns:
            2/d² for `mse`; for `huber` 1/d² up to `delta` and 0 beyond.

        Raises:
            ConfigError: The loss is `quantile`: the derivative is 0 wherever there is one.
        """
        unit = answers[:, 1]
        if self._form == "quantile":
            raise ConfigError("the quantile loss has no curvature: its second derivative is 0 wherever there is one")
        if self._form == "huber":
            return (((answers[:, 0] - targets) / unit).abs() <= self._delta).float() / unit.square()
        return 2.0 / unit.square()


class Regressor(RegressionTask):
    """A built-in network that learns numbers.

    Args:
        factory: Of the task whose network it is.
        loss: As of `RegressionTask`.
        delta: As of `RegressionTask`.
        quantile: As of `RegressionTask`.
        options: Of the network.
    """

    def __init__(
        self,
        factory: Callable[..., Task],
        loss: str = "mse",
        delta: float | None = None,
        quantile: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(loss, delta, quantile)
        self._inner = factory(**options)

    def network(self, features: int, outputs: int) -> nn.Module:
        """Return the network of the built-in task, with one output."""
        return self._inner.model(features, outputs)


def _number(value: object, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most
