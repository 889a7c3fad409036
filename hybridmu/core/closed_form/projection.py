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

from hybridmu.core.closed_form.exact_products import whole_in
from hybridmu.core.splitmix import STEP, Words, mixed

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
        width: Of what comes out.
        levels: The same.
        matrix: M, float32 [d, width] of whole numbers.
        bias: b, float64 [width] of whole numbers.
        shift: How often products are halved.
    """

    def __init__(self, features: int, levels: int, width: int, seed: int, levels_out: int) -> None:
        words = _words(seed, 0, features * width)
        ones = np.bitwise_count(words).astype(np.float64).reshape(features, width) - _MIDDLE
        self.width, self.levels = width, levels_out
        self.matrix = torch.from_numpy(ones).float()
        self._largest = features * levels * _LARGEST_ENTRY
        deviation = _DEVIATION * levels * math.sqrt(features) * _USUAL
        reach = max(1, int(_BIAS * deviation))
        # 0..2 reach, by the upper half of a word, less reach.
        drawn = ((_words(seed, 1, width) >> np.uint64(32)) * np.uint64(2 * reach + 1)) >> np.uint64(32)
        self.bias = torch.from_numpy(drawn.astype(np.float64) - reach)
        self.shift = max(0, round(math.log2(_REACH * deviation / levels_out)))

    def __call__(self, q: Tensor) -> Tensor:
        """Return the projected features of rows.

        Args:
            q: int16 [n, d], at most `levels` in magnitude.

        Returns:
            int16 [n, width], 0..`levels_out`.
        """
        kind = whole_in(self._largest)
        products = (q.to(kind) @ self.matrix.to(q.device, kind)).double() + self.bias.to(q.device)
        return torch.floor(products.clamp_(min=0) * 2.0**-self.shift).clamp_(max=self.levels).to(torch.int16)


def _words(seed: int, stream: int, count: int) -> Words:
    """Return the first outputs of splitmix64 from a state of its own per seed and stream."""
    with np.errstate(over="ignore"):
        start = mixed(np.array([2 * (seed % 2**63) + stream], np.uint64))
        return mixed(start + np.arange(1, count + 1, dtype=np.uint64) * STEP)
