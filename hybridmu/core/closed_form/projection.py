"""Random features in whole numbers: relu(M·q + b), with a public M, the same bits on any machine.

A random projection before a linear model makes it bend (random features: Rahimi & Recht 2008; on frozen encoders:
RanPAC, arXiv 2307.02251). Here M has whole numbers that are nearly Gaussian, drawn from a seed, and the features are
whole numbers too: products are exact, and are halved often enough to fit the levels again. How often depends on the
number of features alone: a scale that were taken from rows would have to be forgotten with them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# A word of 64 random bits has 32 ± 4 ones: M's entries are its ones less 32.
_MIDDLE, _DEVIATION, _LARGEST_ENTRY = 32, 4, 32
# Deviation of a product, as a share of what features that are all at their bound would give: of pictures in 0..1.
_USUAL = 1 / 3
# Deviations that fit the levels; what is beyond is clipped.
_REACH = 3
# Biases lie within this share of a deviation: more of it loses accuracy on pictures (docs/log.md).
_BIAS = 0.3


class Projection:
    """relu(M·q + b), halved `shift` times, at most `levels`.

    Args:
        features: d.
        levels: Of what comes in, in magnitude.
        width: Of what comes out.
        seed: Of M and b.
        levels_out: Of what comes out; nothing is below 0.

    Attributes:
        matrix: M, float64 or float32 [d, width] of whole numbers; in which products are exact.
        bias: b, float64 [width] of whole numbers.
        shift: How often products are halved.
    """

    def __init__(self, features: int, levels: int, width: int, seed: int, levels_out: int) -> None:
        words = _words(seed, 0, features * width)
        ones = np.bitwise_count(words).astype(np.float64).reshape(features, width) - _MIDDLE
        exact_in_float32 = features * levels * _LARGEST_ENTRY < 2**24
        self.matrix = torch.from_numpy(ones).to(torch.float32 if exact_in_float32 else torch.float64)
        deviation = _DEVIATION * levels * math.sqrt(features) * _USUAL
        reach = max(1, int(_BIAS * deviation))
        # 0..2 reach, by the upper half of a word, less reach.
        drawn = ((_words(seed, 1, width) >> np.uint64(32)) * np.uint64(2 * reach + 1)) >> np.uint64(32)
        self.bias = torch.from_numpy(drawn.astype(np.float64) - reach)
        self.shift = max(0, round(math.log2(_REACH * deviation / levels_out)))
        self._levels = levels_out

    def __call__(self, q: Tensor) -> Tensor:
        """Return the projected features of rows.

        Args:
            q: int16 [n, d], at most `levels` in magnitude.

        Returns:
            int16 [n, width], 0..`levels_out`.
        """
        matrix, bias = self.matrix.to(q.device), self.bias.to(q.device)
        products = (q.to(matrix.dtype) @ matrix).double() + bias
        return torch.floor(products.clamp_(min=0) * 2.0**-self.shift).clamp_(max=self._levels).to(torch.int16)


def _words(seed: int, stream: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the first outputs of splitmix64 (Steele, Lea, Flood 2014) from a state of its own per seed and stream."""
    with np.errstate(over="ignore"):
        start = _mixed(np.array([2 * (seed % 2**63) + stream], np.uint64))
        return _mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mixed(x: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
