"""Names of strategies and kinds of keys."""

from __future__ import annotations

from typing import Literal

KeyKind = Literal["id", "group"]
# Names in the registry of strategies (`hybridmu.kinds`); configuration, command line, HTTP and Python check them there.
StrategyName = str
StrategyChoice = str  # or `auto`
