"""Naive Bayes as a function of counts: how many rows of each class have a feature in each of its bins.

A class's features are taken to be independent of each other, each with a histogram of its own (Hand & Yu 2001; bins in
place of Gaussians: Dougherty et al. 1995). Bins are public: a function of their number alone, narrower towards 0, where
columns that were scaled by their largest number have most of their rows. Counts are whole numbers, so that a row is
taken out of them exactly, at the cost of one count per feature, however many rows and features there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hybridmu.core.closed_form.closed_form_model import ClosedForm
from hybridmu.core.closed_form.quantiser import quantised

LEVELS = 32_767  # of features, before they are binned
_BLOCK_CELLS = 1 << 22  # features whose bins are looked up at once


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of some rows.

    Attributes:
        cells: int64 [features · bins, classes]: rows of a class whose feature is in a bin.
        classes: int64 [classes]: rows of a class.
    """

    cells: Tensor
    classes: Tensor

    @property
    def rows(self) -> int:
        """Return how many rows they are of."""
        return int(self.classes.sum())

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of the rows of both."""
        return Counts(self.cells + other.cells, self.classes + other.classes)

    def __sub__(self, other: Counts) -> Counts:
        """Return the counts of the rows that are not in the other's, which are all in these."""
        return Counts(self.cells - other.cells, self.classes - other.classes)


def bins_of(bins: int, levels: int) -> Tensor:
    """Return the bin of every whole number from −levels to levels, int64 [2 · levels + 1].

    Bins are of one width in square roots: the half of them from 0 up, the other half below.

    Example:
        >>> bins_of(4, 4).tolist()
        [0, 0, 0, 0, 2, 3, 3, 3, 3]
    """
    half = bins // 2
    roots = torch.tensor([math.isqrt(number * half * half // levels) for number in range(levels + 1)])
    upper = half + roots.clamp(max=half - 1)
    return torch.cat([bins - 1 - upper[1:].flip(0), upper])


class NaiveBayes(ClosedForm[Counts]):
    """Naive Bayes on binned features.

    Args:
        features: Encoded width.
        classes: Number of classes.
        bins: Of each feature; an even number.
        smoothing: Rows of each class that are added to every feature, spread over its bins.

    Attributes:
        cells: int64 [features · bins, classes], as of `Counts`.
        classes: int64 [classes], the same.
    """

    def __init__(self, features: int, classes: int, bins: int, smoothing: float) -> None:
        super().__init__()
        self._bins, self._smoothing = bins, smoothing
        self._of_number = bins_of(bins, LEVELS)
        self._first = torch.arange(features) * bins
        self._known: tuple[int, Tensor] | None = None
        self.cells: Tensor
        self.classes: Tensor
        self.register_buffer("cells", torch.zeros(features * bins, classes, dtype=torch.int64))
        self.register_buffer("classes", torch.zeros(classes, dtype=torch.int64))

    def sums(self, x: Tensor, outcomes: Tensor) -> Counts:
        """Return the counts of rows, as of `ClosedForm`."""
        classes = len(self.classes)
        cells = torch.zeros(self.cells.numel(), dtype=torch.int64, device=x.device)
        block = max(1, _BLOCK_CELLS // max(1, x.shape[1]))
        for start in range(0, len(x), block):
            places = self._cells_of(x[start : start + block]) * classes + outcomes[start : start + block, None]
            cells += torch.bincount(places.flatten(), minlength=len(cells))
        return Counts(cells.view(-1, classes), torch.bincount(outcomes, minlength=classes))

    @property
    def held(self) -> Counts:
        """Return the counts that the model is of."""
        return Counts(self.cells, self.classes)

    def hold(self, sums: Counts) -> None:
        """Become the model of some counts."""
        self.cells.copy_(sums.cells)
        self.classes.copy_(sums.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return log p(x | class) + log n of each class, float32 [n, classes]; −∞ of a class without rows.

        All are alike where there is no row.
        """
        if not bool(self.classes.any()):
            return x.new_zeros(len(x), len(self.classes))
        prior = self.classes.double().log()
        if not x.shape[1]:
            return prior.float().expand(len(x), -1).clone()
        inner = functional.embedding_bag(self._cells_of(x), self._table(), mode="sum")
        return (inner + prior).float()

    def _cells_of(self, x: Tensor) -> Tensor:
        """Return the cell of each feature, int64 [n, features]."""
        number = quantised(x, LEVELS).long() + LEVELS
        return self._of_number.to(x.device)[number] + self._first.to(x.device)

    def _table(self) -> Tensor:
        """Return log p(bin | class), float64 [features · bins, classes].

        Logarithms differ between machines in their last bit, so that they are no part of the state.
        """
        made = -1 if self.cells.is_inference() else self.cells._version  # -1: nothing tells whether it was changed
        if made < 0 or self._known is None or self._known[0] != made or self._known[1].device != self.cells.device:
            above = self.cells.double() + self._smoothing / self._bins
            self._known = made, (above / (self.classes.double() + self._smoothing)).log()
        return self._known[1]
