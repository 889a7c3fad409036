"""Objects of JSON in which a name stands twice: readers see different documents in one, so ours read none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN = 80


class DoubledNameError(ValueError):
    """A name stands twice in one object; its text says which."""


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dictionary; for `json.loads(…, object_pairs_hook=each_once)`.

    Raises:
        DoubledNameError: A name stands twice.

    Example:
        >>> each_once([("a", 1), ("b", 2)])
        {'a': 1, 'b': 2}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DoubledNameError(f"the name {ascii(twice)[:_SHOWN]} stands twice in one object")
    return found
