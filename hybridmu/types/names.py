"""Names of strategies and kinds of keys."""

from __future__ import annotations

from typing import Literal

KeyKind = Literal["id", "group"]
StrategyName = Literal["retrain", "rewind", "dpus", "dpus-optimised", "dpus-newton"]
StrategyChoice = Literal["auto", "retrain", "rewind", "dpus", "dpus-optimised", "dpus-newton"]
UPDATES: frozenset[str] = frozenset({"rewind", "dpus", "dpus-optimised", "dpus-newton"})  # done by updaters, not exact
