"""Lengths of time in reports, to the digits that one would say."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length of time in the unit that one would say it in.

    Example:
        >>> duration(0.0423), duration(0.24), duration(16.42), duration(5400.0), duration(259_200.0)
        ('42 ms', '0.24 s', '16.4 s', '90 min', '3 days')
    """
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120.0:
        return f"{seconds:.2f} s" if seconds < 1.0 else f"{seconds:.1f} s"
    for most, size, unit in ((7_200.0, 60.0, "min"), (172_800.0, 3_600.0, "h")):
        if seconds < most:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 86_400.0)} days"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
