"""The finaliser of splitmix64, by which augmentation and projections draw: the same words on any machine.

The kernel has its own (`kernel/partition.py`): taking it from here would change the name of every checkpoint.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
STEP = np.uint64(0x9E3779B97F4A7C15)  # between the states of two outputs


def mixed(x: Words) -> Words:
    """Return the splitmix64 finaliser (Steele, Lea, Flood 2014) of 64-bit words, a bijection.

    Example:
        >>> int(mixed(np.array([1234567], np.uint64) + STEP)[0])
        6457827717110365317
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
