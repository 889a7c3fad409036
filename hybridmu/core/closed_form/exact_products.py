"""Products of integer matrices by floating-point hardware, without rounding.

A sum of products of integers is exact in float64, in whatever order a library adds and on whatever number of threads,
while no partial sum of magnitudes exceeds 2^53; in float32, 2^24. So large integers are cut into digits, and long sums
into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Whole numbers up to here, and their sums, are what they are in these types.
_WHOLE = {torch.float64: 2**53, torch.float32: 2**24}
_LARGEST = 2**62  # of a sum: no difference of two leaves int64
_LEAST_BLOCK = 256  # rows; shorter products cost more in calls than float32 saves

# Of digits of the other matrix: the least that is worth a pass over the large one, and what they have altogether.
_SHORTEST, _USUAL = 6, 42
_READ = 3  # as many columns as reading a digit of the large matrix takes as long as


def summed_products(left: Tensor, right: Tensor, left_bound: int, right_bound: int) -> Tensor:
    """Return leftᵀ·right, exactly.

    Args:
        left: Integers of any dtype, [n, p], at most `left_bound` in magnitude.
        right: The same, [n, q], of `right_bound`.
        left_bound: At least 1.
        right_bound: The same.

    Returns:
        int64 [p, q].

    Raises:
        OverflowError: A sum of so many products may leave 62 bits; the message says how many fit.
    """
    rows, product = len(left), left_bound * right_bound
    if rows * product > _LARGEST:
        raise OverflowError(f"{rows:,} products of up to {product:,} leave 62 bits; {_LARGEST // product:,} fit")
    kind = whole_in(product * _LEAST_BLOCK)
    block = max(1, min(_WHOLE[kind] // product, rows))
    if _WHOLE[kind] < product:
        raise OverflowError(f"a product of up to {product:,} is beyond 53 bits")
    products = (
        (left[start : start + block].to(kind).T @ right[start : start + block].to(kind)).to(torch.int64)
        for start in range(0, max(rows, 1), block)
    )
    return reduce(torch.Tensor.add_, products)


def whole_in(largest: int) -> torch.dtype:
    """Return the narrowest type in which products of matrices are exact.

    Args:
        largest: Bound of all sums of magnitudes in them.
    """
    # A setting of torch lets float32 products be taken in fewer bits; who set it did not mean these.
    narrow = largest <= _WHOLE[torch.float32] and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if narrow else torch.float64


def digits(values: Tensor, bits: int, largest: int) -> list[Tensor]:
    """Return digits of integers, the lowest first: all in 0..2^bits − 1, but the last, which has the sign.

    Args:
        values: int64, any shape.
        bits: Of a digit.
        largest: Of their magnitudes, at most.

    Returns:
        float64 tensors of that shape; Σ digit_k · 2^(bits·k) is the value.

    Example:
        >>> [digit.tolist() for digit in digits(torch.tensor([5, -1]), 2, 5)]
        [[1.0, 3.0], [1.0, -1.0]]
    """
    found: list[Tensor] = []
    for _ in range(bits, largest.bit_length(), bits):
        found.append((values & (2**bits - 1)).double())
        values = values >> bits
    return [*found, values.double()]


class ExactMatrix:
    """A square matrix of integers, ready to be multiplied with others without rounding.

    It is kept as digits of so many bits that a product with digits of the other matrix, summed over a column, stays
    below 2^53. Few digits are read sooner, and shorter digits of the other matrix are more columns.

    Args:
        matrix: int64 [p, p].
        largest: Of the magnitudes in it, at most.
    """

    def __init__(self, matrix: Tensor, largest: int) -> None:
        room = 53 - (len(matrix) - 1).bit_length()
        length = max(1, largest.bit_length())
        choices = [(-(-length // count), room - -(-length // count)) for count in (1, 2, 3, 4)]
        self._bits, beside = min(
            (choice for choice in choices if choice[1] >= _SHORTEST),
            key=lambda choice: -(-length // choice[0]) * (_READ + -(-_USUAL // choice[1])),
        )
        self._factor_bits = min(beside, _USUAL)
        self._digits = digits(matrix, self._bits, largest)

    def times(self, factor: Tensor) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """Yield what the product with an int64 matrix [p, q] is the sum of: int64 [p, q], times 2^power."""
        width, bits = factor.shape[1], self._factor_bits
        largest = max(abs(int(factor.min())), abs(int(factor.max())))
        beside = torch.cat(digits(factor, bits, largest), dim=1)  # so that the large matrix is read once
        for power, digit in enumerate(self._digits):
            products = (digit @ beside).to(torch.int64).cpu().numpy()
            for place in range(beside.shape[1] // width):
                yield products[:, place * width : (place + 1) * width], self._bits * power + bits * place
