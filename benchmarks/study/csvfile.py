"""CSV files of frozen dataclasses: one column per field, appended to, never rewritten."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of a file, in its order; none when it is not there.

    Args:
        path: The file.
        kind: A dataclass of text, integers, floats (NaN and None are empty) and tuples of integers.
    """
    if not path.exists():
        return []
    types = _types(kind)
    with path.open(newline="") as file:
        return [kind(**{name: _value(types[name], text) for name, text in row.items()}) for row in csv.DictReader(file)]


def append(path: Path, rows: Iterable[Any], kind: type[Any]) -> None:
    """Append rows to a file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, names = not path.exists(), list(_types(kind))
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(names)
        for row in rows:
            writer.writerow([_text(getattr(row, name)) for name in names])


def _types(kind: type[Any]) -> dict[str, str]:
    return {field.name: str(field.type) for field in fields(kind)}


def _value(kind: str, text: str) -> object:
    if kind == "int":
        return int(text)
    if kind.startswith("tuple"):
        return tuple(map(int, text.split()))
    if kind.startswith("float"):
        return float(text) if text else (None if "None" in kind else float("nan"))
    return text


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
