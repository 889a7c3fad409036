"""Fixed-point numbers of any length, as arrays of limbs: sums of integers times powers of two, without rounding.

Python's own integers would do, in arrays of objects; these are added a hundred times as fast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_LIMB = 32  # bits
_LOW = (1 << _LIMB) - 1
# An integer is added in pieces of so many bits: shifted by up to 31, some sixty of them fit into a limb before a carry.
_PIECE = 26
_LARGEST_TOP = 1 << 40


class FixedPoint:
    """Numbers of one shape, 0 at first: each is Σ limb_j · 2^(32 j), with a sign in the highest limb alone.

    Args:
        shape: Of the array.

    Example:
        >>> numbers = FixedPoint((1,))
        >>> numbers.add(np.array([3]), -100)
        >>> numbers.add(np.array([-1]), -1)
        >>> numbers.carry()
        >>> numbers.floats() == np.array([3 * 2.0**-100 - 0.5])
        array([ True])
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._limbs: dict[int, I64] = {}

    def add(self, values: I64, power: int) -> None:
        """Add values · 2^power.

        Args:
            values: int64 of this shape.
            power: Of any sign.
        """
        pieces = (values & ((1 << _PIECE) - 1), (values >> _PIECE) & ((1 << _PIECE) - 1), values >> 2 * _PIECE)
        for number, piece in enumerate(pieces):
            place, shift = divmod(power + _PIECE * number, _LIMB)
            self._limb(place).__iadd__(piece << shift)

    def carry(self) -> None:
        """Bring all limbs but the highest to 0..2^32 − 1; to be called after some twenty additions at most."""
        if not self._limbs:
            return
        place, highest = min(self._limbs), max(self._limbs)
        while place < highest or np.abs(self._limb(place)).max(initial=0) > _LARGEST_TOP:
            limb = self._limb(place)
            self._limb(place + 1).__iadd__(limb >> _LIMB)
            limb &= _LOW
            place += 1

    def floats(self) -> F64:
        """Return the nearest float64 numbers, but for some 2^-50 of each; limbs are carried.

        From the highest limb on, a partial sum is exact until it has more than 53 bits of what the limbs below it are
        less than one unit of: so nothing cancels after the first rounding.
        """
        total = np.zeros(self._shape)
        for place in sorted(self._limbs, reverse=True):
            total += np.ldexp(self._limbs[place].astype(np.float64), _LIMB * place)
        return total

    def _limb(self, place: int) -> I64:
        return self._limbs.setdefault(place, np.zeros(self._shape, dtype=np.int64))
