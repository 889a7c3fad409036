"""Quality of the served version: a full evaluation, made when it is asked for."""

from __future__ import annotations

from typing import Any

from hybridmu.runtime.audit.evaluation_run import evaluate
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.system.arguments import checked
from hybridmu.system.session import Session


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
