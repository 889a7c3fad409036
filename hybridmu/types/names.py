"""Names of strategies, kinds of keys, and events of a request's life."""

from __future__ import annotations

from typing import Literal, get_args

KeyKind = Literal["id", "group"]
# Names in the registry of strategies (`hybridmu.kinds`); configuration, command line, HTTP and Python check them there.
StrategyName = str
StrategyChoice = str  # or `auto`
# What receivers of webhooks are told, in no order that every request keeps: `exact` may come before `served` or after.
RequestEvent = Literal["accepted", "applied", "served", "exact", "purged", "failed", "overdue", "cancelled"]
EVENTS: tuple[RequestEvent, ...] = get_args(RequestEvent)
