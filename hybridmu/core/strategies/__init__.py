"""Ways to remove revoked rows from one sub-model: one file each, registered by name."""

from __future__ import annotations

from collections.abc import Collection

from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work
from hybridmu.kinds import STRATEGIES


def register(strategy: type[Removal]) -> None:
    """Add an update. What is exact is done by a shard's own worker, which knows the built-in strategies alone.

    Raises:
        ValueError: The name is taken, or the strategy is no update.
    """
    if strategy.exact or strategy.place != "updater":
        raise ValueError(f"strategy {strategy.name!r} is no update: leave `exact` and `place` as they are")
    STRATEGIES.register(strategy.name, strategy)


def get(name: str) -> Removal:
    """Return a strategy by name.

    Raises:
        ValueError: No such strategy; the message lists the known ones.
    """
    found: Removal = STRATEGIES.get(name)()
    return found


def names() -> tuple[str, ...]:
    """Return the names of all strategies, the built-in ones first."""
    return STRATEGIES.names()


def calibrated() -> tuple[str, ...]:
    """Return the strategies whose step and error canaries tell, the newest first."""
    return tuple(name for name in reversed(names()) if get(name).calibrated)


def asks_exact(choice: str) -> bool:
    """Return whether a choice is a strategy whose result is exact; `auto` may be answered by an update."""
    return choice in names() and get(choice).exact


def exact_updates(learner: str) -> tuple[str, ...]:
    """Return the exact strategies that change a learner's current sub-models instead of training them again."""
    found = ((name, get(name)) for name in names())
    return tuple(name for name, strategy in found if strategy.exact and strategy.learner == learner)


def asks_canaries(choice: str) -> bool:
    """Return whether a plan by a choice depends on canaries: by `auto`, and by every strategy that they calibrate."""
    return choice not in names() or get(choice).calibrated


def needs_model(choice: str) -> bool:
    """Return whether it takes the task's model to tell if a choice can be fulfilled."""
    return choice not in names() or type(get(choice)).unfit is not Removal.unfit


def unavailable(choice: str, optimizer: str) -> str | None:
    """Return why a choice can't be fulfilled after training by an optimizer, or None."""
    return get(choice).unavailable(optimizer) if choice in names() else None


def strictest(asked: Collection[str]) -> str:
    """Return the choice that fulfils several at once: the one that leaves the least behind."""
    return min(asked, key=lambda choice: (not asks_exact(choice), -_rank(choice), choice))


def _rank(choice: str) -> int:
    return get(choice).rank if choice in names() else 0


__all__ = [
    "Context",
    "Extent",
    "Removal",
    "Result",
    "Work",
    "asks_canaries",
    "asks_exact",
    "calibrated",
    "exact_updates",
    "get",
    "names",
    "needs_model",
    "register",
    "strictest",
    "unavailable",
]
