"""Values that a CSV file spells out: what a column of them means, and each value in that type, exactly.

A column is of whole numbers, of numbers or of truth values only where every value in all files of the table is one;
else it is of text, as it is spelled. "007" and "+7" are texts: a number would be spelled in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.core.kernel.column_types import exact, kind_of
from hybridmu.errors import DataError

# What stands for no value among numbers and truth values. In a column of text each is a text: Null is a surname.
NULL_WORDS = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_WHOLE = r"^[ \t]*(0|-?[1-9][0-9]*)[ \t]*$"
_NUMBER = r"^[ \t]*-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*$"
_BLANKS = " \t"


@dataclass(frozen=True)
class Spelling:
    """How the values of a column are spelled.

    Attributes:
        values: How many there are; a null is none.
        words: Words for no value.
        whole: Whole numbers.
        numbers: Numbers, whole ones included.
        truths: Truth values.
        signed: Whether all whole numbers fit into 64 bits with a sign.
        unsigned: Whether all fit into 64 bits without one.
    """

    values: int = 0
    words: int = 0
    whole: int = 0
    numbers: int = 0
    truths: int = 0
    signed: bool = True
    unsigned: bool = True

    @property
    def type(self) -> pa.DataType:
        """Return the type that holds every value exactly as it is meant."""
        if not self.values:
            return pa.null()
        said = self.values - self.words
        if said and self.truths == said:
            return pa.bool_()
        if said and self.whole == said and (self.signed or self.unsigned):
            return pa.int64() if self.signed else pa.uint64()
        if said and self.numbers == said and self.whole < said:
            return pa.float64()
        return pa.string()

    @property
    def strays(self) -> int:
        """Return how many values made a text of a column most of whose values are numbers; 0 where that is not so."""
        others = self.values - self.words - self.numbers
        return others if pa.types.is_string(self.type) and 0 < others < self.numbers else 0

    def __add__(self, other: Spelling) -> Spelling:
        """Return the spelling of the values of both."""
        return Spelling(
            self.values + other.values,
            self.words + other.words,
            self.whole + other.whole,
            self.numbers + other.numbers,
            self.truths + other.truths,
            self.signed and other.signed,
            self.unsigned and other.unsigned,
        )


def spelling_of(texts: pa.Array) -> Spelling:
    """Return how some values are spelled.

    Args:
        texts: Strings; null is no value.
    """
    there = texts.drop_null()
    words = _among(there, NULL_WORDS)
    said = there.filter(pc.invert(words))
    whole = said.filter(pc.match_substring_regex(said, _WHOLE))
    return Spelling(
        values=len(there),
        words=pc.sum(words).as_py() or 0,
        whole=len(whole),
        numbers=pc.sum(pc.match_substring_regex(said, _NUMBER)).as_py() or 0,
        truths=pc.sum(_among(said, _TRUE + _FALSE)).as_py() or 0,
        signed=_fits(whole, pa.int64()),
        unsigned=_fits(whole, pa.uint64()),
    )


def valued(name: str, texts: pa.Array, found: pa.DataType, wanted: pa.DataType, where: str) -> pa.Array:
    """Return spelled values in a type.

    Args:
        name: Of the column.
        texts: Strings.
        found: The type that holds all of the column, `Spelling.type`.
        wanted: A kept type. A text keeps its spelling; everything else is the same value in another type.
        where: The file, for messages.

    Returns:
        The values.

    Raises:
        DataError: A value can't be had in that type, or is another one than when the table was opened.
    """
    if kind_of(wanted) == "text" or kind_of(found) == "text":
        return exact(name, texts, wanted, where)
    texts = pc.if_else(_among(texts, NULL_WORDS), pa.scalar(None, pa.string()), texts)
    try:
        return exact(name, _parsed(texts, found), wanted, where)
    except (pa.ArrowInvalid, ValueError):
        raise DataError(
            f"column {name!r} of {where} has other values than a moment ago",
            expected=str(found),
            remedy="read a table that nobody writes to meanwhile",
        ) from None


def _parsed(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_null(type_):
        return texts.cast(pa.null()) if texts.null_count < len(texts) else pa.nulls(len(texts))
    if pa.types.is_boolean(type_):
        known = _among(texts, _TRUE + _FALSE)
        if not pc.all(pc.or_(known, pc.is_null(texts))).as_py():
            raise ValueError("neither true nor false")
        return pc.if_else(pc.is_valid(texts), _among(texts, _TRUE), pa.scalar(None, pa.bool_()))
    pattern = _WHOLE if pa.types.is_integer(type_) else _NUMBER
    if not pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py():
        raise ValueError("no number")
    return pc.utf8_trim(texts, _BLANKS).cast(type_)


def _fits(whole: pa.Array, type_: pa.DataType) -> bool:
    try:
        pc.utf8_trim(whole, _BLANKS).cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


def _among(texts: pa.Array, known: tuple[str, ...]) -> pa.Array:
    return pc.is_in(texts, value_set=pa.array(known, pa.string()))
