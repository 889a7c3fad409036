"""Products of integer matrices by floating-point hardware, without rounding.

A sum of products of integers is exact in float64, in whatever order a library adds and on whatever number of threads,
while no partial sum of magnitudes exceeds 2^53; in float32, 2^24. So large integers are cut into digits, and long sums
into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Whole numbers up to here, and their sums, are what they are in these types.
_WHOLE = {torch.float64: 2**53, torch.float32: 2**24}
_LARGEST = 2**62  # of a sum: no difference of two leaves int64
_LEAST_BLOCK = 256  # rows; shorter products cost more in calls than float32 saves

BigIntegers = npt.NDArray[np.object_]


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


def digits(values: Tensor, bits: int) -> list[Tensor]:
    """Return digits of integers, the lowest first: all in 0..2^bits − 1, but the last, which has the sign.

    Args:
        values: int64, any shape.
        bits: Of a digit.

    Returns:
        float64 tensors of that shape; Σ digit_k · 2^(bits·k) is the value.

    Example:
        >>> [digit.tolist() for digit in digits(torch.tensor([5, -1]), 2)]
        [[1.0, 3.0], [1.0, -1.0]]
    """
    found: list[Tensor] = []
    while True:
        if int(values.min()) >= -(2**bits) and int(values.max()) < 2**bits:
            return [*found, values.double()]
        found.append((values & (2**bits - 1)).double())
        values = values >> bits


def multiplied(parts: Sequence[Tensor], bits: int, factor: Tensor, factor_bits: int) -> BigIntegers:
    """Return the product of a matrix, given by its digits, and an int64 matrix, exactly.

    Args:
        parts: From `digits`, [p, p] each.
        bits: Of a digit of it.
        factor: int64 [p, q].
        factor_bits: Into what digits it is cut; bits + factor_bits + log2 p is at most 53.

    Returns:
        Python integers [p, q].
    """
    width = factor.shape[1]
    total: BigIntegers = np.zeros((parts[0].shape[0], width), dtype=object)
    beside = torch.cat(digits(factor, factor_bits), dim=1)  # so that a large matrix is read once, and not per digit
    for power, part in enumerate(parts):
        products = (part @ beside).to(torch.int64).cpu().numpy().astype(object)
        for place in range(beside.shape[1] // width):
            product = products[:, place * width : (place + 1) * width]
            total = total + product * 2 ** (bits * power + factor_bits * place)
    return total
