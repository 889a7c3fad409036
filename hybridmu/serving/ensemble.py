"""Ensemble: one immutable version, ready to answer. A replica swaps versions by replacing one reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hybridmu.core import features
from hybridmu.core.features import FeatureSource, RowTransform
from hybridmu.core.features.derived import Derivation
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.core.learners.merging import MERGE, answering, combined_by
from hybridmu.core.tasks.classification import Classification
from hybridmu.core.tasks.judgement import Judgement
from hybridmu.errors import ConfigError, DataError, HybridMUError, MissingExtraError, StateError, UserExitError
from hybridmu.runtime.workers.context import Site
from hybridmu.serving.forward_passes import Forward, fastest, loop
from hybridmu.types import ModelVersion
from hybridmu.user_code import contained, kind

_SAMPLE_ROWS = 16
_QUICK_SECONDS = 0.005
_QUICK_CELLS = 16_384  # reading and naming so many values takes milliseconds too
_T = TypeVar("_T")
_R = TypeVar("_R")


class Ensemble:
    """Sub-models of one version.

    Args:
        version: Version number that every answer carries.
        models: Shard → (blob, sub-model); emptied shards are absent. None stands for one that another process holds.
        encoder: Feature columns, label and classes.
        how: One of the ways of `serving.aggregation`.
        removed: Shard → tombstones up to this number are out of its sub-model.
        elsewhere: Has the sub-models run by the processes that hold them, x → logits, and the seconds of a sample.
        whole: Columns that hold whole numbers alone.
        source: Makes numbers of rows; the default one by default.
        judgement: Combines answers; as logits of classes by default.
        derivation: Derived columns.
        encoding: Returns the same once their encoders are known to be those of the stored rows; asked by the first
            question, so that a version is served, and deletions end, where an encoder can't be had.
        steady: Run the sub-models one after the other, which gives the same bits whenever the same rows are asked
            about; otherwise in the way that is the fastest here and now.
    """

    def __init__(
        self,
        version: int,
        models: Mapping[int, tuple[str, SubModel | None]],
        encoder: Encoder,
        how: str,
        removed: Mapping[int, int] | None = None,
        elsewhere: tuple[Forward, float] | None = None,
        whole: Collection[str] = (),
        source: FeatureSource | None = None,
        judgement: Judgement | None = None,
        derivation: Derivation | None = None,
        encoding: Callable[[], Derivation] | None = None,
        *,
        steady: bool = False,
    ) -> None:
        self.version, self.encoder, self.how = version, encoder, how
        self.models, self._steady = models, steady
        self._judgement = judgement or Classification()
        source = source or features.get()
        self.source, self.whole = source, frozenset(whole)
        derivation = derivation or Derivation()
        self._derived, self.asked = bool(derivation), derivation.asked(encoder.columns)
        self.encoding = encoding or (lambda: derivation)
        encode = source.of_rows(encoder, whole)
        self._encode: RowTransform = (
            (lambda rows: encode(self.encoding().rows(rows, self.asked))) if self._derived else encode
        )
        # What reading one row and naming its answer takes, in values.
        self._cells = sum(column.width if column.kind == "list" else 1 for column in encoder.columns)
        self._cells += self._judgement.combined(len(encoder.classes))
        self.removed = {shard: upto for shard, upto in (removed or {}).items() if shard in models}
        self.withheld: frozenset[int] = frozenset()
        self.way = "none"
        self.seconds: dict[str, float] = {}
        if elsewhere:
            self._forward, self.way, self.seconds = elsewhere[0], "spread", {"spread": elsewhere[1]}
        else:
            self._choose()

    @classmethod
    def load(
        cls,
        site: Site,
        version: ModelVersion,
        before: Ensemble | None = None,
        shards: Collection[int] | None = None,
        *,
        steady: bool = False,
    ) -> Ensemble:
        """Load a version; sub-models that did not change since `before` are shared, not read again.

        Args:
            site: Where blobs and schema are.
            version: What to load.
            before: The ensemble that answers now.
            shards: Only their sub-models; None: all.
            steady: As of the class.

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
        how, encoder = site.settings.serving.aggregation, site.lake.manifest.encoder
        whole = site.feature_types.whole()
        source, judgement, removed = site.lake.features, site.judgement, removed_of(version)
        derivation, encoding = site.lake.derivation, lambda: site.lake.encoding
        said = (encoder, how, removed, None, whole, source, judgement, derivation, encoding)
        return cls(version.version, models, *said, steady=steady)

    def _choose(self) -> None:
        """Find the fastest way to run the sub-models; of merged ones, make one of those that vote."""
        models = [m for s, (_, m) in self.models.items() if m is not None and not (self._merged and s in self.withheld)]
        asked, _ = answering(models, self.how)
        if asked and self._steady:
            self.way, self._forward = "loop", loop(asked)
        elif asked:
            self.way, self._forward, self.seconds = fastest(asked, sample(self.source.width(self.encoder)))

    @property
    def _merged(self) -> bool:
        return self.how == MERGE

    def withholding(self, shards: frozenset[int]) -> Ensemble:
        """Return the same version with some sub-models out of the vote; nothing is loaded."""
        made = copy.copy(self)
        made.withheld = shards & self.models.keys()
        if self._merged and made.withheld != self.withheld:
            made._choose()
        return made

    @property
    def voters(self) -> int:
        """Return how many sub-models vote."""
        return len(self.models) - len(self.withheld)

    def quick(self, rows: int) -> bool:
        """Return whether so many rows are answered here within milliseconds, going by what a sample took."""
        if self.way == "spread" or self._derived:  # how long an encoder takes no sample says
            return False
        forward = self.seconds.get(self.way, math.inf) * max(1.0, rows / _SAMPLE_ROWS)
        return forward < _QUICK_SECONDS and rows * self._cells <= _QUICK_CELLS

    def encode(self, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32]:
        """Encode rows given as column → value.

        Args:
            rows: Each with every feature column; other columns are ignored.

        Returns:
            float32 [n, features].

        Raises:
            DataError: No rows, a missing column, or a value that the column can't hold.
            StateError: An encoder is not the one that the stored rows were made with, or can't be had.
        """
        try:
            return self._encode(rows)
        except (DataError, StateError):
            raise
        except (ConfigError, MissingExtraError) as error:  # of an encoder: no row is at fault
            raise StateError(error.what, expected=error.expected, got=error.got, remedy=error.remedy) from None
        except Exception as error:  # whatever a caller's rows raise is said to that caller
            raise DataError("these rows can't be encoded", expected="JSON values", got=type(error).__name__) from error

    @torch.no_grad()
    def probabilities(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return combined answers, as `Judgement.combine`: of classes, their probabilities, float32 [n, classes].

        Raises:
            DataError: A task's own way to combine answers has not one for every row.
            StateError: No shard is left to vote.
        """
        if not self.voters:
            raise StateError("no shard is left to vote: every training row was forgotten")
        logits = self.logits(x)
        if (
            self.withheld and not self._merged
        ):  # a sub-model that is run and not counted costs less than other batches of weights
            logits = logits[[place for place, shard in enumerate(self.models) if shard not in self.withheld]]
        with contained():
            found = self._judgement.combine(logits, combined_by(self.how)).float()
        expected = [len(x), self._judgement.combined(len(self.encoder.classes))]
        if list(found.shape) != expected:
            raise DataError(
                "the model does not answer every row",
                expected=f"answers {expected}",
                got=str(list(found.shape)),
                remedy="mend the task's judgement; these rows are not at fault",
            )
        return found.numpy()

    @torch.no_grad()
    def logits(self, x: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return what all sub-models say, floats of 32 bits or more [sub-models, n, width], in the order of `models`.

        Merged ones say one thing.

        Raises:
            DataError: A sub-model has not one answer for every row.
        """
        said = self._forward(torch.from_numpy(x))
        expected = [1 if self._merged else len(self.models), len(x), self._judgement.width(len(self.encoder.classes))]
        if list(said.shape) != expected:
            raise DataError(
                "the model does not answer every row",
                expected=f"logits {expected[1:]}",
                got=str(list(said.shape[1:])),
                remedy="mend the task's model; these rows are not at fault",
            )
        return said.to(torch.promote_types(said.dtype, torch.float32))  # NumPy has no bfloat16

    def answer(self, x: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the JSON-able answer for encoded rows: a prediction of each, and the version."""
        return self._named(self._said(self.finite(x)))

    def finite(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return combined answers that are numbers, as `probabilities`.

        Raises:
            DataError: The model can't answer these rows.
            HybridMUError: No shard is left to vote, or sub-models are out of reach.
        """
        try:
            found = self.probabilities(x)
        except UserExitError as error:
            raise DataError("the model can't answer these rows", got=kind(error)) from error
        except HybridMUError:
            raise
        except Exception as error:
            raise DataError("the model can't answer these rows", got=kind(error)) from error
        if not np.isfinite(found).all():
            raise DataError("the model has no finite answer to these rows", remedy="check their numbers")
        return found

    def answers(self, requests: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any] | DataError]:
        """Return the answers to several requests, made as one batch; one that is wrong spoils no other.

        Args:
            requests: Rows of each.

        Returns:
            Answer or refusal per request, in their order.

        Raises:
            StateError: No shard is left to vote, or sub-models are out of reach.
        """
        encoded = self._encode_each(requests)
        right = [x for x in encoded if not isinstance(x, DataError)]
        try:
            found = self.probabilities(np.concatenate(right)) if right else np.empty((0, 0), dtype=np.float32)
            whole = bool(np.isfinite(found).all())
        except StateError:
            raise
        except Exception:  # of the user's model, for some of the rows perhaps
            whole = False
        if not whole:
            return [x if isinstance(x, DataError) else _said(self.answer, x) for x in encoded]
        made = iter(self._said(found))
        return [x if isinstance(x, DataError) else self._named(list(islice(made, len(x)))) for x in encoded]

    def _encode_each(
        self, requests: Sequence[Sequence[dict[str, Any]]]
    ) -> Sequence[npt.NDArray[np.float32] | DataError]:
        """Return the rows of each, encoded all at once, which costs little more than one; singly if one is wrong."""
        try:
            joined = self.encode([row for rows in requests for row in rows])
            parts = np.split(joined, np.cumsum([len(rows) for rows in requests])[:-1])
            if all(map(len, parts)):
                return parts
        except Exception:
            pass  # told to whom it concerns
        return [_said(self.encode, rows) for rows in requests]

    def _named(self, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        return {"version": self.version, "withheld": len(self.withheld), "predictions": predictions}

    def _said(self, combined: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        return self._judgement.predictions(combined, self.encoder.classes)


def _said(answer: Callable[[_T], _R], question: _T) -> _R | DataError:
    try:
        return answer(question)
    except DataError as error:
        return error


def sample(width: int) -> torch.Tensor:
    """Return rows to measure with, float32 [16, width]."""
    return torch.zeros(_SAMPLE_ROWS, width)


def removed_of(version: ModelVersion) -> dict[int, int]:
    """Return shard → tombstones up to this number are out of its sub-model."""
    return {sub.shard: sub.removed_upto for sub in version.shards}
