"""Token codes: the numbers of a text's tokens as features that are stored and read like any others.

A feature is one of 255 levels, so a token's number is written with two or three digits to the base 255. A code is the
number plus one; the code 0 stands for no token. Rows of zeros are texts without a token, and every model answers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # codes are made where no PyTorch is loaded
    from torch import Tensor

NONE = -1  # in place of a token's number, behind the last token
_BASE = 255
_LEVELS = 127


def digits_of(vocabulary: int) -> int:
    """Return how many features a token takes.

    Args:
        vocabulary: How many tokens a model knows.

    Example:
        >>> digits_of(30_522), digits_of(65_024), digits_of(65_025), digits_of(250_002)
        (2, 2, 3, 3)
    """
    return 2 if vocabulary < _BASE**2 else 3


def to_features(numbers: npt.NDArray[np.int64], digits: int) -> npt.NDArray[np.int8]:
    """Return the features of texts whose tokens are known, the lowest digit first.

    Args:
        numbers: int64 [n, length], `NONE` where there is no token.
        digits: As of `digits_of`.

    Returns:
        int8 [n, length · digits], from −127 to 127.

    Example:
        >>> to_features(np.array([[101, 2045, NONE]]), 2).tolist()
        [[102, 0, 6, 8, 0, 0]]
    """
    codes = numbers[:, :, None] + 1
    found = codes // _BASE ** np.arange(digits) % _BASE
    return (
        np.where(found > _LEVELS, found - _BASE, found).astype(np.int8).reshape(len(numbers), numbers.shape[1] * digits)
    )


def to_numbers(features: Tensor, digits: int) -> Tensor:
    """Return the tokens that features stand for.

    Args:
        features: float32 [n, length · digits], in steps of 1/127 as sub-models see them.
        digits: As of `digits_of`.

    Returns:
        int64 [n, length], `NONE` where there is no token.
    """
    rows, width = features.shape
    found = (features * _LEVELS).round().long().remainder(_BASE).reshape(rows, width // digits, digits)
    codes: Tensor = found[:, :, 0]
    for place in range(1, digits):
        codes = codes + found[:, :, place] * _BASE**place
    return codes - 1
