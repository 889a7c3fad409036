"""Rounds: what is fulfilled, repaired or trained together, and published as one version."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from hybridmu.types import ModelJob, ShardOutcome, ShardPlan


@dataclass
class Round:
    """Shards that are worked on together.

    Attributes:
        round_id: Its name.
        places: Request → the shards it waits for; empty when nobody asked for it, as for a repair.
        plans: Shard → what is to be done.
        ingest_id: Whose rows it trains on.
        mends: It makes again what storage lost.
        jobs: Job id → job under way.
        attempts: Shard → jobs begun.
        outcomes: Shard → what was made.
    """

    round_id: str
    places: dict[str, set[int]]
    plans: dict[int, ShardPlan]
    ingest_id: str | None = None
    mends: bool = False
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, ShardOutcome] = field(default_factory=dict)


def new_id(kind: str) -> str:
    """Return a name for a round of a kind."""
    return f"{kind}-{uuid.uuid4().hex[:12]}"
