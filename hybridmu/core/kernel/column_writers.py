"""Columns of record batches written into one matrix: what is usual at the speed of memory, what is not left to others.

A column costs a few microseconds per batch, whatever their number. Rows come in batches small enough that the part of
the matrix that they fill stays in the processor's cache while column after column is written across it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_ROWS = 2_048
# Texts whose hash is remembered: few distinct ones are hashed once, many are not kept.
_REMEMBERED = 65_536
_DTYPES: dict[int, npt.DTypeLike] = {
    type_.id: np.dtype(type_.to_pandas_dtype())
    for type_ in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64()),
    )
}
# float32 of the number differs from float32 of its float64.
_ROUNDED_TWICE = {pa.int64().id, pa.uint64().id}
_BOOL, _DICTIONARY = pa.bool_().id, pa.dictionary(pa.int32(), pa.string()).id
_LIST = pa.list_(pa.int8(), 1).id
_TEXTS = {pa.string().id, pa.large_string().id}


@dataclass(frozen=True)
class Slot:
    """Where one column goes, and how.

    Attributes:
        kind: `number`, `bool`, `list`, `category` or `hash`.
        at: First column of the matrix that it fills.
        width: How many it fills, without the indicator of nulls, which comes next.
        scale: Factor of numbers.
        fill: Stand-in for null; None refuses nulls.
        places: Value of a category → its place among `width`.
    """

    kind: str
    at: int
    width: int
    scale: float
    fill: Any
    places: Mapping[str, int] = field(default_factory=dict)


def write(columns: pa.Table, slots: Sequence[Slot], out: F32, hashes: dict[str, int]) -> list[int]:
    """Write columns into a matrix.

    Args:
        columns: One per slot, in their order.
        slots: Where they go.
        out: float32 [n, features].
        hashes: Text → its hash, of those that are known; more come in.

    Returns:
        Positions of the slots that are not written, or not to be relied on: other types, nulls without a fill, values
        outside the categories, numbers that are not finite.
    """
    left: set[int] = set()
    numbers = {p: (slot.at, slot.at + slot.width) for p, slot in enumerate(slots) if slot.kind in {"number", "list"}}
    spans = _spans(list(numbers.values()))
    texts = _Texts([(p, slot) for p, slot in enumerate(slots) if slot.kind in {"category", "hash"}], hashes)
    columns = columns.unify_dictionaries() if texts else columns
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        for batch in columns.to_batches(max_chunksize=_ROWS):
            part = out[start : start + len(batch)]
            start += len(batch)
            arrays = batch.columns
            for position, (slot, values) in enumerate(zip(slots, arrays, strict=True)):
                writer = _WRITERS.get(slot.kind)
                if writer and not writer(slot, values, part):
                    left.add(position)
            if texts:
                left.update(texts.write(arrays, part))
            if not all(np.isfinite(part[:, low:high]).all() for low, high in spans):
                left.update(p for p, (low, high) in numbers.items() if not np.isfinite(part[:, low:high]).all())
    return sorted(left)


def bucket(text: str, buckets: int) -> int:
    """Return the bucket of a hashed text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % buckets


def _hashes(texts: Sequence[str]) -> list[int]:
    made = b"".join([hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts])
    found: list[int] = np.frombuffer(made, dtype="<u8").tolist()
    return found


def _number(slot: Slot, values: pa.Array, part: F32) -> bool:
    kind = values.type.id
    dtype = _DTYPES.get(kind)
    if dtype is None:
        return False
    missing = None
    if values.null_count:
        missing = _missing(values)
        found = _raw(values, dtype)
        if slot.fill is None or missing is None or found is None:
            return False
    else:
        found = values.to_numpy()
    if slot.scale != 1 or kind in _ROUNDED_TWICE:
        found = np.multiply(found, slot.scale, dtype=np.float64)
    part[:, slot.at] = found
    return _filled(slot, missing, part)


def _bool(slot: Slot, values: pa.Array, part: F32) -> bool:
    if values.type.id != _BOOL:
        return False
    missing = _missing(values) if values.null_count else None
    data = values.buffers()[1]
    if data is None or (values.null_count and (slot.fill is None or missing is None)):
        return False
    found = _bits(data, values.offset, len(values))
    part[:, slot.at] = found if slot.scale == 1 else np.multiply(found, slot.scale, dtype=np.float64)
    return _filled(slot, missing, part)


def _list(slot: Slot, values: pa.Array, part: F32) -> bool:
    dtype = _DTYPES.get(values.type.value_type.id) if values.type.id == _LIST else None
    if dtype is None or values.type.list_size != slot.width:
        return False
    cells, missing = values.values, _missing(values) if values.null_count else None
    data = cells.buffers()[1]
    if data is None or (values.null_count and (slot.fill is None or missing is None)):
        return False
    start = cells.offset + values.offset * slot.width
    if cells.null_count:  # a list that is null has nulls inside; no other may
        inside = ~_bits(cells.buffers()[0], start, len(values) * slot.width).reshape(-1, slot.width).any(axis=1)
        if missing is None or (inside & ~missing).any():
            return False
    start *= np.dtype(dtype).itemsize
    found = np.frombuffer(data, dtype, len(values) * slot.width, start).reshape(-1, slot.width)
    out = part[:, slot.at : slot.at + slot.width]
    out[:] = found
    if missing is not None:
        out[missing] = slot.fill
    if slot.scale != 1:  # in float32 whatever the type, so that served rows get the bits that training saw
        np.multiply(out, np.float32(slot.scale), out=out)
    if slot.fill is not None:
        part[:, slot.at + slot.width] = 0 if missing is None else missing
    return True


def _filled(slot: Slot, missing: Bools | None, part: F32) -> bool:
    """Return True, after writing the fill where values are missing, and the indicator."""
    if slot.fill is not None:
        part[:, slot.at + 1] = 0 if missing is None else missing
        if missing is not None:
            part[missing, slot.at] = float(slot.fill) * slot.scale
    return True


class _Texts:
    """All columns of text: the places of their ones are found column by column, and written at once.

    Args:
        slots: Position among the columns, and slot.
        hashes: Text → its hash, of those that are known.
    """

    def __init__(self, slots: Sequence[tuple[int, Slot]], hashes: dict[str, int]) -> None:
        self._slots, self._hashes = slots, hashes
        self._at = np.array([slot.at for _, slot in slots])
        self._spans = _spans([(slot.at, slot.at + slot.width) for _, slot in slots])
        self._known: dict[int, tuple[pa.Array, npt.NDArray[np.int32]]] = {}  # the dictionary before, and its places

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._slots)

    def write(self, arrays: Sequence[pa.Array], part: F32) -> list[int]:
        """Write the columns of one batch.

        Args:
            arrays: Of all slots.
            part: float32 [n, features].

        Returns:
            Positions of those that are not written.
        """
        places = np.zeros((len(self._slots), len(part)), dtype=np.int32)
        odd = {
            p for (p, slot), row in zip(self._slots, places, strict=True) if not self._find(p, slot, arrays, part, row)
        }
        for low, high in self._spans:
            part[:, low:high] = 0
        part[np.arange(len(part))[:, None], self._at + places.T] = 1
        return sorted(odd)

    def _find(
        self, position: int, slot: Slot, arrays: Sequence[pa.Array], part: F32, row: npt.NDArray[np.int32]
    ) -> bool:
        """Find the place of every text of one column, and write its indicator.

        Args:
            position: Of the column.
            slot: Where it goes.
            arrays: Of all slots.
            part: float32 [n, features].
            row: int32 [n], for the places.

        Returns:
            Whether it could be done.
        """
        values = arrays[position]
        if values.type.id in _TEXTS:
            values = values.dictionary_encode()
        elif values.type.id != _DICTIONARY or values.type.value_type.id not in _TEXTS:
            return False
        indices, words = values.indices, values.dictionary
        missing = _missing(indices) if indices.null_count else None
        index = _raw(indices, _DTYPES[indices.type.id])
        if words.null_count or index is None or (indices.null_count and (slot.fill is None or missing is None)):
            return False
        known = self._known.get(position)
        if known is None or not known[0].equals(words):
            try:
                known = self._known[position] = (words, self._places(slot, words.to_pylist()))
            except UnicodeDecodeError:
                return False
        if missing is None:
            row[:] = known[1][index]
        else:  # where a value is null its index means nothing
            if len(known[1]):
                row[:] = known[1].take(index, mode="clip")
            row[missing] = self._places(slot, [str(slot.fill)])
        if (row < 0).any():
            row[:] = 0
            return False
        if slot.fill is not None:
            part[:, slot.at + slot.width] = 0 if missing is None else missing
        return True

    def _places(self, slot: Slot, words: list[str]) -> npt.NDArray[np.int32]:
        """Return the place of each text; −1 where a category has none."""
        if slot.kind == "category":
            return np.array([slot.places.get(word, -1) for word in words], dtype=np.int32)
        known = self._hashes
        if len(known) > _REMEMBERED:
            known.clear()
        fresh = [word for word in words if word not in known]
        known.update(zip(fresh, _hashes(fresh), strict=True))
        return (np.array([known[word] for word in words], dtype=np.uint64) % np.uint64(slot.width)).astype(np.int32)


_WRITERS = {"number": _number, "bool": _bool, "list": _list}


def _missing(values: pa.Array) -> Bools | None:
    """Return where values are null; None where Arrow keeps no bits for it."""
    valid = values.buffers()[0]
    return None if valid is None else ~_bits(valid, values.offset, len(values))


def _bits(buffer: pa.Buffer, offset: int, count: int) -> Bools:
    first, inside = divmod(offset, 8)
    packed = np.frombuffer(buffer, np.uint8, (inside + count + 7) // 8, first)
    return np.unpackbits(packed, bitorder="little")[inside : inside + count].view(np.bool_)


def _raw(values: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any] | None:
    """Return the numbers of an array as they lie in memory; where it is null they mean nothing."""
    data = values.buffers()[1]
    size = np.dtype(dtype).itemsize
    return None if data is None else np.frombuffer(data, dtype, len(values), values.offset * size)


def _spans(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted ranges with those joined that touch.

    >>> _spans([(0, 1), (1, 2), (4, 5)])
    [(0, 2), (4, 5)]
    """
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found
