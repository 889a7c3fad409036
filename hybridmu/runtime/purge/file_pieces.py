"""Pieces of files that readers hand to a search: decoded bytes, named values, filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Values:
    """Some values of one column, key or field.

    Attributes:
        name: What the column is called.
        values: Plain Python values.
        shown: Whether their text was among the decoded bytes already.
    """

    name: str
    values: Sequence[object]
    shown: bool = False


@dataclass(frozen=True)
class Filter:
    """A Bloom filter of a column: it says of any text whether the column may hold it.

    Attributes:
        holds: Whether it answers yes, and not only for what is in the rows.
    """

    holds: Callable[[bytes], bool]


Piece = bytes | Values | Filter
