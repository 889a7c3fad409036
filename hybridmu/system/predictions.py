"""Offline predictions by the served version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import pyarrow as pa

from hybridmu.core.kernel.table_encoder import Column
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.row_answers import RowAnswers, answers_to
from hybridmu.system.argument_values import iterable_of
from hybridmu.system.arguments import Check, RowsOrFrame, checked
from hybridmu.system.frame_kinds import is_frame
from hybridmu.system.frames import answered
from hybridmu.system.session import Session


class Predictions:
    """Offline predictions of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loaded: Ensemble | None = None

    @checked
    def feature_columns(self) -> tuple[Column, ...]:
        """Return the columns that a row to be predicted has, in the order of the training table.

        Raises:
            StateError: Nothing was trained here.
        """
        session = self._session
        session.check_bound()
        return session.lake.derivation.asked(session.lake.manifest.encoder.columns)

    @checked
    def predict(self, rows: RowsOrFrame) -> Any:
        """Return predictions of rows, offline, by the served version; the same answers as those of the HTTP endpoint.

        Equal weights give equal bits for the same rows; the endpoint's may differ from them by rounding, since it runs
        the sub-models in whichever way is the fastest.

        Args:
            rows: A list, each as column → value with every feature column; or a frame with these columns: a DataFrame
                of pandas or polars, an Arrow table, record batch or reader, or what else has its C stream interface.

        Returns:
            For a list a dict as over HTTP. For a frame a frame of the same kind: the id column where there is one,
            `label`, and `probability_CLASS` of every class; of numbers `value`, `low` and `high`, with the name of the
            target behind where they are several. A reader is answered while it is read.

        Raises:
            ConfigError: The task makes no model that the stored weights fit.
            DataError: A row can't be answered.
            StateError: Nothing was trained here, or no shard is left to vote.
        """
        ensemble = self._served()
        if is_frame(rows):
            return answered(rows, ensemble, self._session.settings.data.id)
        return answers_to(ensemble, rows)

    @checked
    def predict_rows(self, rows: Annotated[Iterable[dict[str, Any]], Check(iterable_of)]) -> pa.RecordBatchReader:
        """Return predictions of rows that are read while they are answered: of a file that fits into no list.

        Args:
            rows: An iterable, a generator for one, each as column → value with every feature column.

        Returns:
            A reader of the id column where the first row has it, `label`, and `probability_CLASS` of every class.

        Raises:
            DataError: A row can't be answered; also while the reader is read.
            StateError: Nothing was trained here, or no shard is left to vote.
        """
        answers = RowAnswers(self._served(), rows, self._session.settings.data.id)
        return pa.RecordBatchReader.from_batches(answers.schema, answers.batches())

    def _served(self) -> Ensemble:
        """Return the served version, as it was loaded if it still is the one."""
        session = self._session
        session.check_bound()
        with reporting(session.site, session.database):
            version = session.registry.version()
            if self._loaded is None or self._loaded.version != version.version:
                self._loaded = Ensemble.load(session.site, version, self._loaded, steady=True)
        return self._loaded
