"""Ways to remove revoked rows from one sub-model, registered by name."""

from __future__ import annotations

from hybridmu.core.strategies import dpus, newton, retrain, rewind, second_moments
from hybridmu.core.strategies.base import Context, Result, Strategy

_REGISTRY: dict[str, Strategy] = {}


def register(strategy: Strategy) -> None:
    """Add a strategy.

    Raises:
        ValueError: The name is taken.
    """
    if strategy.name in _REGISTRY:
        raise ValueError(f"strategy {strategy.name!r} is registered already")
    _REGISTRY[strategy.name] = strategy


def get(name: str) -> Strategy:
    """Return a strategy by name.

    Raises:
        ValueError: No such strategy; the message lists the known ones.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


register(Strategy("retrain", exact=True, run=retrain.run))
register(Strategy("rewind", exact=False, run=rewind.run))
register(Strategy("dpus", exact=False, run=dpus.run_plain, reads=second_moments.sampled))
register(Strategy("dpus-optimised", exact=False, run=dpus.run_optimised, reads=dpus.tuned, validates=True))
register(Strategy("dpus-newton", exact=False, run=newton.run, reads=newton.sampled))

__all__ = ["Context", "Result", "Strategy", "get", "register"]
