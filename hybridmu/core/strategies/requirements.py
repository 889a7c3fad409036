"""Requirements of strategies on a model: gradients of its loss, and for some second derivatives of its logits."""

from __future__ import annotations

import torch

from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.training import trained
from hybridmu.core.strategies import get, names
from hybridmu.core.strategies.probe import Probe
from hybridmu.core.tasks.base import Task
from hybridmu.user_code import contained


def unfit_updates(model: SubModel, task: Task, features: int) -> dict[str, str]:
    """Try what strategies need on two rows of zeros.

    Args:
        model: Untrained, on the CPU; it is left in evaluation mode.
        task: Supplies the loss.
        features: Encoded width.

    Returns:
        Strategy → why it can't be used with this model; nothing where the model can't tell, since it does not take
        zeros.
    """
    probe = Probe(model.eval(), task, features)
    if trained(model):
        try:
            with torch.random.fork_rng(devices=[]), contained():
                task.loss(model(probe.x), probe.outcomes)
        except Exception:  # of the user's code, which no real row may raise
            return {}
    reasons = {name: get(name).unfit(probe) for name in names()}
    return {name: reason for name, reason in reasons.items() if reason}
