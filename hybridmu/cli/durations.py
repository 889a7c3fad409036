"""Lengths of time as one says them."""

from __future__ import annotations

# Up to so many of a unit are said in it: 90 min, but not 36 h of minutes.
_UNITS = ((120.0, 1.0, "s"), (7_200.0, 60.0, "min"), (172_800.0, 3_600.0, "h"), (float("inf"), 86_400.0, "days"))


def length(seconds: float) -> str:
    """Return a length of time in the unit that one would say it in.

    Example:
        >>> length(59.6), length(82_800.0), length(864_000.0)
        ('60 s', '23 h', '10 days')
    """
    size, unit = next((size, unit) for most, size, unit in _UNITS if seconds < most)
    return f"{seconds / size:.0f} {unit}"


def due(seconds: float) -> str:
    """Return when a deadline is.

    Example:
        >>> due(82_800.0), due(-600.0)
        ('due in 23 h', 'overdue by 10 min')
    """
    return f"due in {length(seconds)}" if seconds > 0 else f"overdue by {length(-seconds)}"
