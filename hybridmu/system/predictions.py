"""Offline predictions by the served version."""

from __future__ import annotations

from typing import Any

from hybridmu.core.kernel.table_encoder import Column
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.serving.ensemble import Ensemble
from hybridmu.system.arguments import RowList, checked
from hybridmu.system.session import Session


class Predictions:
    """Offline predictions of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def feature_columns(self) -> tuple[Column, ...]:
        """Return the columns that a row to be predicted has, in the order of the training table.

        Raises:
            StateError: Nothing was trained here.
        """
        session = self._session
        session.check_bound()
        return session.site.lake.manifest.encoder.columns

    @checked
    def predict(self, rows: RowList) -> dict[str, Any]:
        """Return predictions of rows, offline, by the served version; the same answer as the HTTP endpoint.

        Args:
            rows: Each as column → value with every feature column.

        Raises:
            ConfigError: The task makes no model that the stored weights fit.
            DataError: A row can't be answered.
            StateError: Nothing was trained here, or no shard is left to vote.
        """
        session = self._session
        session.check_bound()
        with reporting(session.site, session.database):
            ensemble = Ensemble.load(session.site, session.registry.version())
        return ensemble.answer(ensemble.encode(rows))
