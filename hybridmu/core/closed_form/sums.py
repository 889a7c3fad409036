"""Sums over rows that a closed-form model is a function of: G = Σ φφᵀ, C = Σ φtᵀ and Σ t², in integers.

Integer sums depend on no order, number of workers or processor. A row is taken out of them by subtraction, and what is
left are the sums over the other rows, to the last bit. The last feature of every row is the constant 1: G holds the
sums of the features and the number of rows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_products import summed_products

_PANEL = 128  # rows and columns of a block that fits into a processor's own memory


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over some rows.

    Attributes:
        gram: G, int64 [p, p], symmetric; p is the number of features and one.
        cross: C, int64 [p, k], with one column per target.
        squares: Σ t² of each target, int64 [k]; of one-hot classes, how many rows each has.
    """

    gram: Tensor
    cross: Tensor
    squares: Tensor

    @property
    def rows(self) -> int:
        """Return how many rows they are over."""
        return int(self.gram[-1, -1])

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return Sums(self.gram + other.gram, self.cross + other.cross, self.squares + other.squares)

    def __sub__(self, other: Sums) -> Sums:
        """Return the sums over the rows that are not in the other's, which are all in these."""
        return Sums(self.gram - other.gram, self.cross - other.cross, self.squares - other.squares)


def sums_of(features: Tensor, targets: Tensor, levels: int, target_levels: int = 1) -> Sums:
    """Return the sums over rows.

    Args:
        features: int16 [n, d], at most `levels` in magnitude.
        targets: Integers [n, k], at most `target_levels` in magnitude.
        levels: At least 1.
        target_levels: The same.

    Raises:
        OverflowError: So many rows may leave 62 bits.

    Example:
        >>> found = sums_of(torch.tensor([[2], [-3]], dtype=torch.int16), torch.tensor([[1, 0], [0, 1]]), 3)
        >>> found.gram.tolist(), found.cross.tolist()
        ([[13, -1], [-1, 2]], [[2, -3], [1, 1]])
    """
    one = torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
    extended = torch.cat([features, one], dim=1)
    return Sums(
        summed_products(extended, extended, levels, levels),
        summed_products(extended, targets, levels, target_levels),
        targets.long().square().sum(dim=0),
    )


def packed(gram: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix, row by row, [p (p + 1) / 2]."""
    size = len(gram)
    found = torch.empty(size * (size + 1) // 2, dtype=gram.dtype, device=gram.device)
    for row, part in enumerate(_rows_of(found, size)):
        part.copy_(gram[row, row:])
    return found


def unpacked(triangle: Tensor, size: int) -> Tensor:
    """Return the symmetric matrix [size, size] of an upper triangle.

    Example:
        >>> unpacked(packed(torch.tensor([[1, 2], [2, 3]])), 2).tolist()
        [[1, 2], [2, 3]]
    """
    found = torch.empty(size, size, dtype=triangle.dtype, device=triangle.device)
    for row, part in enumerate(_rows_of(triangle, size)):
        found[row, row:] = part
    for start in range(0, size, _PANEL):  # mirrored block by block: a whole matrix transposed is read from afar
        stop = min(start + _PANEL, size)
        corner = found[start:stop, start:stop].triu()
        found[start:stop, start:stop] = corner + corner.triu(1).T
        for below in range(stop, size, _PANEL):
            rows = slice(below, min(below + _PANEL, size))
            found[rows, start:stop] = found[start:stop, rows].T
    return found


def _rows_of(triangle: Tensor, size: int) -> Sequence[Tensor]:
    """Return views of the rows of a triangle: copying them is many times as fast as gathering places."""
    return torch.split(triangle, [*range(size, 0, -1)])
