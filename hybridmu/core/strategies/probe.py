"""Probe: a model on which it is tried what strategies need of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.training import trained
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.user_code import contained, told


@dataclass(frozen=True, eq=False)
class Probe:
    """A model on which it is tried what strategies need of it, on two rows of zeros.

    Attributes:
        model: Untrained, on the CPU, in evaluation mode.
        task: Supplies the loss.
        features: Encoded width.
    """

    model: SubModel
    task: Task
    features: int

    @property
    def x(self) -> torch.Tensor:
        """Return the rows, float32 [2, features]."""
        return torch.zeros(2, self.features)

    @property
    def outcomes(self) -> torch.Tensor:
        """Return what is right of them: the first class, or the target 0; [2]."""
        return torch.zeros(2, dtype=judgement_of(self.task).outcome)

    @cached_property
    def without_gradient(self) -> str | None:
        """Return why the loss has no gradient in evaluation mode, or None."""
        parameters = trained(self.model)
        if not parameters:
            return "the model has no parameter that is trained"
        try:
            with contained():
                gradients_of(self.model, self.task, parameters)(self.x, self.outcomes)
        except Exception as error:  # of the user's code
            return f"the model's loss has no gradient in evaluation mode: {told(error)}"
        return None
