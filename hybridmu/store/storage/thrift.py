"""Thrift's compact protocol, read without a schema: the form of Parquet's footers, page headers and indexes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = {4, 5, 6}
_DEEPEST = 32
Struct = dict[int, Any]


def read_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """Return (field number → value, where the struct ends).

    Args:
        data: What holds it.
        at: Where it begins.

    Raises:
        ValueError: It is no such struct, or is cut off.
    """
    try:
        return _Reader(data, at).struct(0)
    except IndexError:
        raise ValueError("a struct is cut off") from None


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def struct(self, depth: int) -> tuple[Struct, int]:
        if depth > _DEEPEST:
            raise ValueError("structs are nested too deeply")
        found: Struct = {}
        field = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            field = field + step if step else self._signed()
            found[field] = kind == _TRUE if kind in {_TRUE, _FALSE} else self._value(kind, depth)
        return found, self._at

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._signed()
        if kind in {_TRUE, _FALSE, _BYTE}:  # inside a list a boolean has a byte of its own
            return self._byte()
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._unsigned())
        if kind in {_LIST, _SET}:
            head = self._byte()
            count = head >> 4
            return self._many(self._unsigned() if count == 15 else count, lambda: self._value(head & 15, depth + 1))
        if kind == _MAP:
            count = self._unsigned()
            kinds = self._byte() if count else 0
            return self._many(count, lambda: [self._value(one, depth + 1) for one in (kinds >> 4, kinds & 15)])
        if kind == _STRUCT:
            return self.struct(depth + 1)[0]
        raise ValueError(f"there is no type {kind}")

    def _many(self, count: int, one: Callable[[], Any]) -> list[Any]:
        if count > len(self._data) - self._at:
            raise ValueError("a list is cut off")
        return [one() for _ in range(count)]

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise ValueError("a text is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
