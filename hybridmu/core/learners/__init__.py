"""Ways to make a sub-model from the rows of a shard: one file each, registered by name."""

from __future__ import annotations

from hybridmu.core.learners.learner import Fit, Fitted, Learner
from hybridmu.kinds import LEARNERS


def register(learner: type[Learner]) -> None:
    """Add a learner.

    Raises:
        ValueError: The name is taken.
    """
    LEARNERS.register(learner.name, learner)


def get(name: str = LEARNERS.default) -> Learner:
    """Return a learner by name; the one of every system that names none by default.

    Raises:
        ValueError: No such learner; the message lists the known ones.
    """
    found: Learner = LEARNERS.get(name)()
    return found


__all__ = ["Fit", "Fitted", "Learner", "get", "register"]
