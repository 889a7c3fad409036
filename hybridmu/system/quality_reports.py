"""Quality of versions, as it was measured when they were published, as JSON-able data."""

from __future__ import annotations

from typing import Any

from hybridmu.system.session import Session
from hybridmu.types import Quality


def quality_of(session: Session, *versions: int | None) -> dict[int, dict[str, Any]]:
    """Return version → quality as JSON-able data, of those that were evaluated.

    Args:
        session: The open system.
        *versions: Which; None is left out.
    """
    found = session.database.evaluations.of({version for version in versions if version is not None})
    return {number: quality_json(quality) for number, quality in found.items()}


def quality_json(quality: Quality) -> dict[str, Any]:
    """Return the quality of a version as JSON-able data: table → rows, metrics of the ensemble and of sub-models."""
    return {
        "version": quality.version,
        **{
            one.split: {
                "rows": one.rows,
                "ensemble": one.ensemble,
                "sub_models": [{"shard": shard, **figures} for shard, figures in sorted(one.sub_models.items())],
            }
            for one in quality.splits
        },
    }
