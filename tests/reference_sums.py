"""An independent trainer of `lda`: from the source table, by rational arithmetic; shares no code with the package."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

_LEVELS = 32_767


def weights(
    table: Path, config: dict[str, Any], ids: Collection[object] = (), groups: Collection[object] = (), more: tuple = ()
) -> np.ndarray | None:
    """Return the weights of a shard that has all rows but the forgotten ones, float32 [d, K]; None without a row.

    Args:
        table: The training table.
        config: Of the system; one shard, every column scaled to −1..1 already.
        ids: Forgotten.
        groups: Forgotten.
        more: Tables of rows that came later.
    """
    rows = [row for file in (table, *more) for row in pq.read_table(file).to_pylist()]
    rows = [row for row in rows if row["id"] not in set(ids) and row.get("user") not in {*groups} - {None}]
    if not rows:
        return None
    features, classes = config["data"]["features"], config["data"]["classes"]
    scale = config["data"]["scale"]
    x = [[_whole(np.float32(float(row[name]) * scale[name])) for name in features] for row in rows]
    y = [classes.index(row["label"]) for row in rows]
    n, d, k = len(rows), len(features), len(classes)
    penalty = Fraction(config["task"].get("penalty", 1e-3))
    counts = [y.count(label) for label in range(k)]
    means = [[Fraction(sum(row[j] for row, own in zip(x, y, strict=True) if own == c), max(1, counts[c]))
              for j in range(d)] for c in range(k)]  # fmt: skip
    middle = [Fraction(sum(row[j] for row in x), n) for j in range(d)]
    scatter = [
        [
            sum((row[i] - means[own][i]) * (row[j] - means[own][j]) for row, own in zip(x, y, strict=True))
            for j in range(d)
        ]
        for i in range(d)
    ]
    for j in range(d):
        spread = penalty * sum((row[j] - middle[j]) ** 2 for row in x)
        scatter[j][j] += max(1, spread.numerator // spread.denominator, sum(row[j] ** 2 for row in x) // 2**36)
    right = [[n * (means[c][j] - middle[j]) if counts[c] else Fraction(0) for c in range(k)] for j in range(d)]
    return np.array([[nearest(value) for value in row] for row in rational(scatter, right)], np.float32)


def _whole(value: np.float32) -> int:
    """Return the nearest integer to value · levels, ties to even, at most the levels in magnitude."""
    return max(-_LEVELS, min(_LEVELS, round(Fraction(float(value)) * _LEVELS)))


def rational(a: Sequence[Sequence[int | Fraction]], c: Sequence[Sequence[int | Fraction]]) -> list[list[Fraction]]:
    """Return the exact solution of a·w = c, by Gaussian elimination of fractions."""
    rows = [[Fraction(value) for value in (*left, *right)] for left, right in zip(a, c, strict=True)]
    for at in range(len(rows)):
        pivot = next(row for row in range(at, len(rows)) if rows[row][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        rows[at] = [value / rows[at][at] for value in rows[at]]
        for other in range(len(rows)):
            if other != at and rows[other][at]:
                factor = rows[other][at]
                rows[other] = [one - factor * two for one, two in zip(rows[other], rows[at], strict=True)]
    return [row[len(a) :] for row in rows]


def nearest(exact: Fraction) -> float:
    """Return the float32 next to a fraction, by trying its neighbours; 0 below 2^-60."""
    if abs(exact) < Fraction(1, 2**60):
        return 0.0
    guess = np.float32(float(exact))
    near = [guess, *(np.nextafter(guess, np.float32(side)) for side in (np.inf, -np.inf))]
    return float(min(near, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.int32)) & 1)))
