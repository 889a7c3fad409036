"""Helpers that tests share: small real tables, configurations, systems. Nothing here is a mock."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, Table

import hybridmu
from hybridmu.config import Settings
from hybridmu.core.calibration.fit import ALPHAS
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.ledger.idempotency import RepeatKey, Seal
from hybridmu.store.storage.storage import Storage
from hybridmu.types import (
    CalibrationCell,
    CalibrationCurve,
    KeyKind,
    ResolvedKey,
    RowKey,
    ShardStats,
    StrategyName,
)

HANG_SECONDS = 900.0  # what takes longer hangs; nothing is judged by how long it takes


def until(condition: Callable[[], Any], step: float = 0.02) -> Any:
    """Wait for a condition and return its value.

    Args:
        condition: Anything that becomes true.
        step: Seconds between two looks.

    Returns:
        What the condition returned.

    Raises:
        AssertionError: It hangs.
    """
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(step)
    raise AssertionError(f"did not happen within {HANG_SECONDS:g} s")


def table(
    rows: int = 200,
    *,
    features: int = 4,
    classes: int = 3,
    ids: str = "int",
    groups: int = 0,
    null_groups: int = 0,
    seed: int = 0,
    start: int = 0,
) -> pa.Table:
    """Return a learnable table: `id`, `person` (with `groups` > 0), `label`, `x0`…

    Args:
        rows: Number of rows.
        features: Float feature columns.
        classes: Labels are 0..classes − 1.
        ids: `int` (start, start + 1, …) or `str` ("r0", …).
        groups: Number of persons "p0"…; 0 leaves the column out.
        null_groups: The first so many rows have no person.
        seed: Everything is drawn from it.
        start: First id.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centers = np.random.default_rng(1234).normal(size=(classes, features)) * 2
    x = centers[labels] + rng.normal(size=(rows, features))
    numbers = range(start, start + rows)
    columns: dict[str, Any] = {"id": pa.array(list(numbers) if ids == "int" else [f"r{n}" for n in numbers])}
    if groups:
        people = [f"p{n}" for n in rng.integers(0, groups, rows)]
        columns["person"] = pa.array([None] * null_groups + people[null_groups:], pa.string())
    columns["label"] = pa.array(labels.astype(np.int64))
    return pa.table(columns | {f"x{i}": pa.array(x[:, i].astype(np.float32)) for i in range(features)})


def make_table(path: Path, rows: int = 200, *, row_group_size: int | None = None, **options: Any) -> pa.Table:
    """Write `table(rows, **options)` to a Parquet file and return it."""
    made = table(rows, **options)
    pq.write_table(made, path, row_group_size=row_group_size)
    return made


def write(folder: Path, made: pa.Table, name: str = "train.parquet", **options: Any) -> None:
    """Write a table to a Parquet file in a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, folder / name, **options)


def repeat(key: str, payload: object = None, caller: str = "", guard: str = "k") -> RepeatKey:
    """Return an idempotency key as the ledger compares it, by a guard key that is no file."""
    name, asked = (hmac.digest(guard.encode(), repr(x).encode(), "sha256") for x in ((caller, key), (key, payload)))
    return RepeatKey((Seal(guard, name, asked),))


def replaced(made: pa.Table, name: str, values: Any) -> pa.Table:
    """Return a table with other values in one column."""
    return made.set_column(made.column_names.index(name), name, values)


def settings_dict(folder: Path, **overrides: Any) -> dict[str, Any]:
    """Return a small, fast configuration with storage inside `folder`.

    The training table is `folder/train.parquet`, all of whose rows train. A keyword names a section, whose keys are
    merged, or a plain value.

    Example:
        >>> settings_dict(Path("/tmp/x"), sisa={"shards": 3})["sisa"]["shards"]
        3
    """
    raw: dict[str, Any] = {
        "data": {"train": str(folder / "train.parquet"), "test_fraction": 0},
        "task": {"name": "mlp", "hidden": [8]},
        "sisa": {"shards": 4, "slices": 3, "epochs": 3, "batch_size": 8, "seed": 0, "min_rows": 0},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "policy": {"strategy": "auto", "calibrate": False},
        "storage_url": str(folder / "storage"),
    }
    for name, value in overrides.items():
        raw[name] = {**raw.get(name, {}), **value} if isinstance(value, dict) else value
    return raw


def local_system(folder: Path, **overrides: Any) -> hybridmu.System:
    """Return a system that runs in this process; use it as a context manager."""
    return hybridmu.connect(settings_dict(folder, **overrides), executor="local")


def open_lake(folder: Path, *, read: bool = True, **overrides: Any) -> Lake:
    """Return the lake of `settings_dict(folder, **overrides)`, ingested unless `read` is false."""
    settings = Settings.parse(settings_dict(folder, **overrides))
    lake = Lake(settings, Storage(settings.storage_url))
    if read:
        ingest(lake)
    return lake


def lake_rows(lake: Lake, split: str = "train") -> list[dict[str, Any]]:
    """Return every row in the files of a split, with `shard` and `_slice`, in file order."""
    found = []
    for shard in range(lake.shards):
        for name in lake.files(split, shard):
            rows = pq.read_table(lake.storage.path(name), filesystem=lake.storage.fs).to_pylist()
            found += [{**row, "shard": shard} for row in rows]
    return found


def key(number: int, shard: int = 0, slice_: int = 1, kind: KeyKind = "id") -> ResolvedKey:
    """Return a key for the ledger that nobody had to look up."""
    digest = number.to_bytes(16, "big")
    row = RowKey(digest) if kind == "id" else RowKey(bytes([255]) * 8 + number.to_bytes(8, "big"), digest)
    return ResolvedKey(kind, digest, shard, slice_, (row,))


def curve(
    strategy: StrategyName = "dpus-optimised",
    *,
    shard: int = 0,
    first: int = 1,
    share: float = 0.1,
    zero: float = 0.5,
    off: float = 0.0,
    **fields: Any,
) -> CalibrationCurve:
    """Return a measurement whose gap is 0 at step `zero`, plus `off` at every step."""
    gaps = tuple(alpha - zero + off for alpha in ALPHAS)
    flat = (0.01,) * len(ALPHAS)
    given = {"slices": 3, "canaries": 10, "accuracy_changes": (0.0,) * len(ALPHAS), "deviations": flat, **fields}
    return CalibrationCurve(strategy, shard, CalibrationCell(first, share), gaps=given.pop("gaps", gaps), **given)


def flipped(data: bytes, position: int) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


def rows_of(engine: Engine, table: Table) -> list[Any]:
    """Return all rows of a database table."""
    with engine.begin() as connection:
        return list(connection.execute(table.select()))


def touched_at(first: int, slices: int = 10, rows: int = 1_000_000) -> ShardStats:
    """Return stats of equal slices with every checkpoint there, and one row of slice `first` revoked."""
    revoked = tuple(int(i == first) for i in range(1, slices + 1))
    return ShardStats(0, (2,) * slices, (rows,) * slices, revoked, revoked, (True,) * slices)
