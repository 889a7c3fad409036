"""Ensemble: one immutable version, ready to answer. A replica swaps versions by replacing one reference."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hybridmu.core.aggregate import aggregate
from hybridmu.core.encode import Encoder
from hybridmu.core.model import SubModel
from hybridmu.errors import DataError, StateError
from hybridmu.runtime.site import Site
from hybridmu.serving.forward import Forward, fastest
from hybridmu.types import ModelVersion

_SAMPLE_ROWS = 16
_QUICK_SECONDS = 0.005
_QUICK_ROWS = 256  # encoding them takes milliseconds too


class Ensemble:
    """Sub-models of one version.

    Args:
        version: Version number that every answer carries.
        models: Shard → (blob, sub-model); emptied shards are absent. None stands for one that another process holds.
        encoder: Turns rows into tensors.
        how: `mean` or `vote`.
        removed: Shard → tombstones up to this number are out of its sub-model.
        elsewhere: Has the sub-models run by the processes that hold them, x → logits, and the seconds of a sample.
    """

    def __init__(
        self,
        version: int,
        models: Mapping[int, tuple[str, SubModel | None]],
        encoder: Encoder,
        how: str,
        removed: Mapping[int, int] | None = None,
        elsewhere: tuple[Forward, float] | None = None,
    ) -> None:
        self.version, self.encoder, self.how = version, encoder, how
        self.models = models
        self.removed = {shard: upto for shard, upto in (removed or {}).items() if shard in models}
        self.withheld: frozenset[int] = frozenset()
        voters = [model for _, model in models.values() if model is not None]
        self.way = "none"
        self.seconds: dict[str, float] = {}
        if elsewhere:
            self._forward, self.way, self.seconds = elsewhere[0], "spread", {"spread": elsewhere[1]}
        elif voters:
            self.way, self._forward, self.seconds = fastest(voters, sample(encoder))

    @classmethod
    def load(
        cls,
        site: Site,
        version: ModelVersion,
        before: Ensemble | None = None,
        shards: Collection[int] | None = None,
    ) -> Ensemble:
        """Load a version; sub-models that did not change since `before` are shared, not read again.

        Args:
            site: Where blobs and schema are.
            version: What to load.
            before: The ensemble that answers now.
            shards: Only their sub-models; None: all.

        Returns:
            A new ensemble; `before` is left as it was.
        """
        models: dict[int, tuple[str, SubModel | None]] = {}
        for sub in version.shards:
            if sub.blob is None or (shards is not None and sub.shard not in shards):
                continue
            same = before.models.get(sub.shard) if before else None
            if same is not None and same[0] == sub.blob:
                models[sub.shard] = same
            else:
                models[sub.shard] = (sub.blob, site.load_model(sub.shard, sub.blob))
        how = site.settings.serving.aggregation
        return cls(version.version, models, site.lake.manifest.encoder, how, removed_of(version))

    def withholding(self, shards: frozenset[int]) -> Ensemble:
        """Return the same version with some sub-models out of the vote; nothing is loaded or copied."""
        made = copy.copy(self)
        made.withheld = shards & self.models.keys()
        return made

    @property
    def voters(self) -> int:
        """Return how many sub-models vote."""
        return len(self.models) - len(self.withheld)

    def quick(self, rows: int) -> bool:
        """Return whether so many rows are answered here within milliseconds, going by what a sample took."""
        if self.way == "spread":
            return False
        return self.seconds.get(self.way, 0.0) * max(1.0, rows / _SAMPLE_ROWS) < _QUICK_SECONDS and rows <= _QUICK_ROWS

    def encode(self, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32]:
        """Encode rows given as column → value.

        Args:
            rows: Each with every feature column; other columns are ignored.

        Returns:
            float32 [n, features].

        Raises:
            DataError: No rows, a missing column, or a value of the wrong type.
        """
        if not rows:
            raise DataError("there are no rows to predict", expected="at least one row")
        if not all(isinstance(row, dict) for row in rows):
            raise DataError("a row is not a mapping", expected='[{"column": value, …}, …]')
        columns = {}
        for column in self.encoder.columns:
            values = []
            for row in rows:
                if column.name not in row:
                    raise DataError(
                        f"column {column.name!r} is missing", expected=", ".join(c.name for c in self.encoder.columns)
                    )
                values.append(row[column.name])
            width = column.width - (column.fill is not None)
            try:
                columns[column.name] = pa.array(
                    values, type=pa.list_(pa.float64(), width) if column.kind == "list" else None
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    f"column {column.name!r} has a wrong value", expected=column.kind, got=str(error)
                ) from None
        return self.encoder.encode(pa.table(columns))

    @torch.no_grad()
    def probabilities(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return class probabilities, float32 [n, classes].

        Raises:
            StateError: No shard is left to vote.
        """
        if not self.voters:
            raise StateError("no shard is left to vote: every training row was forgotten")
        logits = self.logits(x)
        if self.withheld:  # a sub-model that is run and not counted costs less than other batches of weights
            logits = logits[[place for place, shard in enumerate(self.models) if shard not in self.withheld]]
        return aggregate(logits, self.how).numpy()

    @torch.no_grad()
    def logits(self, x: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return what all sub-models say, float32 [sub-models, n, classes], in the order of `models`."""
        return self._forward(torch.from_numpy(x))

    def answer(self, x: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the JSON-able answer for encoded rows: label and probability per class, and the version."""
        return self._named(self.label(self.probabilities(x)))

    def answers(self, requests: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any] | DataError]:
        """Return the answers to several requests, made as one batch; one that is wrong spoils no other.

        Args:
            requests: Rows of each.

        Returns:
            Answer or refusal per request, in their order.

        Raises:
            StateError: No shard is left to vote.
        """
        encoded = self._encode_each(requests)
        right = [x for x in encoded if not isinstance(x, DataError)]
        made = iter(self.label(self.probabilities(np.concatenate(right)))) if right else iter(())
        return [x if isinstance(x, DataError) else self._named(list(islice(made, len(x)))) for x in encoded]

    def _encode_each(
        self, requests: Sequence[Sequence[dict[str, Any]]]
    ) -> Sequence[npt.NDArray[np.float32] | DataError]:
        """Return the rows of each, encoded all at once, which costs little more than one; singly if one is wrong."""
        try:
            joined = self.encode([row for rows in requests for row in rows])
        except DataError:
            return [self._encoded(rows) for rows in requests]
        return np.split(joined, np.cumsum([len(rows) for rows in requests])[:-1])

    def _encoded(self, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32] | DataError:
        try:
            return self.encode(rows)
        except DataError as error:
            return error

    def _named(self, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        return {"version": self.version, "withheld": len(self.withheld), "predictions": predictions}

    def label(self, probabilities: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return one prediction per row of class probabilities."""
        classes = self.encoder.classes
        return [
            {
                "label": classes[int(row.argmax())],
                "probabilities": {str(name): float(p) for name, p in zip(classes, row, strict=True)},
            }
            for row in probabilities
        ]


def sample(encoder: Encoder) -> torch.Tensor:
    """Return rows to measure with, float32 [16, features]."""
    return torch.zeros(_SAMPLE_ROWS, encoder.features)


def removed_of(version: ModelVersion) -> dict[int, int]:
    """Return shard → tombstones up to this number are out of its sub-model."""
    return {sub.shard: sub.removed_upto for sub in version.shards}
