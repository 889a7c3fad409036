"""Quality of versions: what was measured when they were published, and a full evaluation of the served one."""

from __future__ import annotations

from typing import Any

from hybridmu.runtime.audit.evaluation_run import evaluate
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.system.arguments import checked
from hybridmu.system.session import Session
from hybridmu.types import Quality


class ModelQuality:
    """Quality of one system's model.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def evaluate(self) -> dict[str, Any]:
        """Return how right the served version answers on every held-out table, computed now and in full.

        Returns:
            JSON-able: `version`, `classes`, and per table of `splits` the live `rows`, the `ensemble`'s metrics, those
            of every sub-model alone, the `confusion` matrix (label × answer, counts) and the `calibration` curve
            (confidence, accuracy, rows). A forgotten row is never asked about.

        Raises:
            StateError: Nothing was trained, no row is held out, or no shard is left to vote.
        """
        session = self._session
        session.refresh()
        with reporting(session.site, session.database):
            return evaluate(session.settings)


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
