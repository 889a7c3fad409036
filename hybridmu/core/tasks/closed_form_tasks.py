"""Built-in tasks `lda`, `ridge` and `naive-bayes`: models that are functions of integer sums over rows.

What they are is in `core/closed_form/`, how they are learned in `core/learners/additive.py`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

from torch import nn

from hybridmu.core.closed_form.linear_models import DiscriminantClassifier, LinearForm, RidgeClassifier, RidgeRegressor
from hybridmu.core.closed_form.naive_bayes import NaiveBayes
from hybridmu.core.closed_form.projection import Projection
from hybridmu.core.tasks.base import CrossEntropyTask
from hybridmu.core.tasks.regression_tasks import RegressionTask
from hybridmu.errors import ConfigError

_MOST_LEVELS = 32_767
_BYTES = 255
_AUTO = "auto"
_WIDEST = 16_384  # G alone is a gigabyte then
_MOST_BINS = 256
_MOST_COUNTS = 1 << 26  # half a gigabyte
_LEAST_SCALE = 2.0**-128  # of a target that float32 holds
_PROJECTED_LEVELS = 127  # their squares can be summed in float32 over a thousand rows


class LinearTask:
    """Base of linear models that are learned by `learner: additive`.

    Args:
        penalty: On the squares of standardised weights, per row; `auto` chooses it by generalised cross-validation, a
            function of the sums, again whenever they change.
        levels: Features count in so many steps from 0 to 1, and to −1; beyond they are clipped (`data.scale` brings
            them there). By default 32,767; 255, which keeps bytes as they are, where they are projected.
        project: How many random features (relu of a public random projection) take the place of the features; 0: none.
        project_seed: Draws the projection.
    """

    kind: ClassVar[type[LinearForm]]

    def __init__(
        self, penalty: float | str = 1e-3, levels: int | None = None, project: int = 0, project_seed: int = 0
    ) -> None:
        levels = levels if levels is not None else _BYTES if project else _MOST_LEVELS
        if penalty != _AUTO and not _within(penalty, 1e-12, 1e6):
            raise _wrong("penalty", "a number from 1e-12 to 1e6, or auto", penalty)
        _refuse_wrong_whole("levels", levels, 1, _MOST_LEVELS)
        _refuse_wrong_whole("project", project, 0, _WIDEST)
        _refuse_wrong_whole("project_seed", project_seed, 0, 2**63 - 1)
        self.penalty = None if penalty == _AUTO else Fraction(penalty)
        self.levels = levels
        self.project = project
        self.project_seed = project_seed

    def model(self, features: int, classes: int) -> nn.Module:
        """Return a model of no row.

        Raises:
            ConfigError: The sums would not fit into memory.
        """
        width = self.project or features
        if width > _WIDEST:
            raise ConfigError(
                "there are too many features for a closed-form task",
                expected=f"at most {_WIDEST:,}",
                got=f"{width:,}, whose sums take {8 * width * width / 1e9:.0f} GB",
                remedy="task.project makes so many of them as it says",
            )
        projection = _projection(features, self.levels, width, self.project_seed) if self.project else None
        return self.kind(features, classes, self.levels, self.penalty, projection, **self._more)

    @property
    def _more(self) -> dict[str, Any]:
        return {}


class Lda(LinearTask, CrossEntropyTask):
    """Linear discriminant analysis: classes that differ in their means and share one covariance."""

    kind = DiscriminantClassifier


class Ridge(LinearTask, CrossEntropyTask):
    """Ridge regression of one-hot classes, the usual head on frozen features; `Lda` tells classes in a row apart."""

    kind = RidgeClassifier


class RidgeOfNumbers(LinearTask, RegressionTask):
    """Ridge regression of a number.

    Args:
        target_scale: Times a target is a number from −1 to 1; what is beyond counts as −1 or 1.
        options: As of `LinearTask`.
    """

    kind = RidgeRegressor

    def __init__(self, target_scale: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        if not _within(target_scale, _LEAST_SCALE, 1 / _LEAST_SCALE):
            raise _wrong("target_scale", f"a number from {_LEAST_SCALE:g} to {1 / _LEAST_SCALE:g}", target_scale)
        self.target_scale = float(target_scale)

    @property
    def _more(self) -> dict[str, Any]:
        return {"scale": self.target_scale}


class NaiveBayesTask(CrossEntropyTask):
    """Naive Bayes on histograms: every class counts its rows in each bin of each feature.

    Args:
        bins: Of a feature, from −1 to 1 (`data.scale` brings it there); an even number.
        smoothing: Rows of each class that are added to every feature, spread over its bins.
    """

    def __init__(self, bins: int = 32, smoothing: float = 1.0) -> None:
        _refuse_wrong_whole("bins", bins, 2, _MOST_BINS)
        if bins % 2:
            raise _wrong("bins", "an even number, half of them for what is below 0", bins)
        if not _within(smoothing, 1e-6, 1e6):
            raise _wrong("smoothing", "a number from 1e-6 to 1e6", smoothing)
        self.bins, self.smoothing = bins, float(smoothing)

    def model(self, features: int, classes: int) -> nn.Module:
        """Return a model of no row.

        Raises:
            ConfigError: The counts would not fit into memory.
        """
        if (size := features * self.bins * classes) > _MOST_COUNTS:
            raise ConfigError(
                "there are too many features for the counts of naive-bayes",
                expected=f"at most {_MOST_COUNTS:,} of features times bins times classes",
                got=f"{features:,} × {self.bins} × {classes}, which take {8 * size / 1e9:.1f} GB",
                remedy="lower task.bins",
            )
        return NaiveBayes(features, classes, self.bins, self.smoothing)


@lru_cache(maxsize=4)  # it is drawn in a tenth of a second, and jobs make models
def _projection(features: int, levels: int, width: int, seed: int) -> Projection:
    return Projection(features, levels, width, seed, _PROJECTED_LEVELS)


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _refuse_wrong_whole(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(name, f"a whole number from {least} to {most:,}", value)


def _wrong(name: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"task.{name} is wrong", expected=expected, got=repr(got)[:100])
