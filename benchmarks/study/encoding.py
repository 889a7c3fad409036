"""Seconds of reading and encoding columns, over Parquet's bare decode of the same columns into one matrix.

Processor seconds of one thread, the best of some rounds taken in turns, so that what else runs here counts little. The
bare decode verifies no checksum, checks no value, and writes no one for a text: it clears the matrix. `verify` is the
whole verb, its oracle in this process, with one epoch of a linear model; what it takes of a few rows with one column
is left out: opening the database, hashing the code.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch

import hybridmu
from benchmarks.study import benchmarks
from benchmarks.study.study_tables import table
from hybridmu.config import Settings
from hybridmu.core.features.table_rows import RowEncoder
from hybridmu.core.kernel.model import State
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.runtime.audit.verification import verify
from hybridmu.runtime.workers.oracle import Seals, train_shards
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.source_rows import Reader
from hybridmu.store.dataset.source_table import open_table
from hybridmu.store.storage.storage import Storage
from hybridmu.types import NO_KEYS

WIDTHS = (1, 10, 100, 784, 5_000)
_CELLS, _LEAST_ROWS, _MOST_ROWS, _LIST, _BUCKETS = 1_000_000, 1_024, 100_000, 8, 8
_FEW_ROWS = 32
_WORDS = [f"word {number}" for number in range(50)]
_CATEGORIES = _WORDS[:8]
# Reading is to take at most so many times the bare decode.
GOAL = 2.0
Made = Callable[[np.random.Generator, int], pa.Array]


def _numbers(type_: pa.DataType) -> Made:
    if pa.types.is_integer(type_):
        return lambda random, rows: pa.array(random.integers(0, 100, rows), type_)
    return lambda random, rows: pa.array(random.normal(size=rows).astype(type_.to_pandas_dtype()))


def _lists(random: np.random.Generator, rows: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(random.random(rows * _LIST, dtype=np.float32)), _LIST)


def _texts(words: list[str]) -> Made:
    return lambda random, rows: pa.array(words).take(pa.array(random.integers(0, len(words), rows)))


def _holes(made: Made) -> Made:
    return lambda random, rows: pa.array(made(random, rows).to_pylist(), mask=random.random(rows) < 0.1)


_BOOLS: Made = lambda random, rows: pa.array(random.random(rows) < 0.5)  # noqa: E731
KINDS: Mapping[str, tuple[Made, str, Any]] = {  # what is in a column, how it is declared, what stands for null
    **{str(type_): (_numbers(type_), "number", None) for type_ in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(type_): (_numbers(type_), "number", None) for type_ in (pa.uint8(), pa.uint64(), pa.float32())},
    "double": (_numbers(pa.float64()), "number", None),
    "double, a tenth null": (_holes(_numbers(pa.float64())), "number", 0.5),
    "bool": (_BOOLS, "bool", None),
    "bool, a tenth null": (_holes(_BOOLS), "bool", True),
    f"list of {_LIST} floats": (_lists, "list", None),
    "category": (_texts(_CATEGORIES), "category", None),
    "category, a tenth null": (_holes(_texts(_CATEGORIES)), "category", _WORDS[0]),
    "hash": (_texts(_WORDS), "hash", None),
    "hash, a tenth null": (_holes(_texts(_WORDS)), "hash", _WORDS[0]),
}


def measure(kind: str, width: int, rounds: int, cells: int = _CELLS) -> dict[str, float]:
    """Return the figures of columns of one kind.

    Args:
        kind: One of `KINDS`.
        width: How many columns.
        rounds: How often everything is measured.
        cells: About how many values are in the table.

    Returns:
        Ratios of processor seconds over the bare decode's, of the shard, of the source and of `verify`; milliseconds of
        a row.
    """
    cells //= _LIST if KINDS[kind][1] == "list" else 1
    rows = max(min(_LEAST_ROWS, cells), min(_MOST_ROWS, cells // width))
    with tempfile.TemporaryDirectory() as folder:
        few = _trained(Path(folder) / "few", kind, 1, _FEW_ROWS)
        settings = _trained(Path(folder) / "all", kind, width, rows)
        path, lake = settings.data.train, Lake(settings, Storage(settings.storage_url))
        encoder, shard = lake.manifest.encoder, lake.storage.path(*lake.files("train", 0))
        source = pq.read_table(path)
        row = source.slice(rows - 1).select([column.name for column in encoder.columns]).to_pylist()
        served, held = RowEncoder(encoder), pq.read_metadata(shard).num_rows
        found = _best(
            rounds,
            bare=lambda: _bare(shard, encoder, held),
            read=lambda: lake.rows("train", 0, NO_KEYS),
            bare_source=lambda: _bare(str(path), encoder, rows),
            checked=lambda: list(Reader(lake, encoder, None).read(open_table(str(path)))),
            row=lambda: served.encode(row),
            verified=lambda: _verified(settings),
            verified_few=lambda: _verified(few),
        )
    return {
        "rows": rows,
        "bare_seconds": found["bare"],
        "reading_ratio": found["read"] / found["bare"],
        "ingestion_ratio": found["checked"] / found["bare_source"],
        "row_ms": 1000 * found["row"],
        "verify_ratio": max(found["verified"] - found["verified_few"], 1e-6) / found["bare"],
    }


def _trained(folder: Path, kind: str, width: int, rows: int) -> Settings:
    """Return the settings of a system of one shard that was trained on columns of one kind."""
    made, declared, fill = KINDS[kind]
    folder.mkdir()
    random, names = np.random.default_rng(0), [f"f{number}" for number in range(width)]
    source = pa.table({"id": np.arange(rows), "label": np.arange(rows) % 2, **{n: made(random, rows) for n in names}})
    pq.write_table(source, folder / "train.parquet")
    fills = dict.fromkeys(names, fill) if fill is not None else {}
    data = {"train": str(folder / "train.parquet"), "classes": [0, 1], "fills": fills, "validation_fraction": 0.0}
    data |= {"categories": dict.fromkeys(names, _CATEGORIES)} if declared == "category" else {}
    data |= {"hash_buckets": dict.fromkeys(names, _BUCKETS)} if declared == "hash" else {}
    settings = Settings.parse({
        "data": data,
        "sisa": {"shards": 1, "slices": 1, "epochs": 1, "batch_size": _LEAST_ROWS, "min_rows": 0},
        "task": {"name": "linear"},
        "optimizer": {"name": "sgd", "lr": 1e-6},
        "policy": {"calibrate": False},
        "storage_url": str(folder / "lake"),
    })
    with hybridmu.connect(settings, executor="local") as system:
        system.train()
    return settings


def _verified(settings: Settings) -> None:
    """Verify a system with its oracle in this process: a new one takes seconds to import what it needs."""
    with patch("hybridmu.runtime.audit.verification.train_from_scratch", _oracle):
        assert verify(settings)["bitwise_equal"]


def _oracle(
    settings: Settings,
    gone: Mapping[int, set[tuple[str, bytes]]],
    shards: Mapping[int, int],
    processes: int,
    watch: None,
    seals: Seals,
) -> tuple[dict[int, State | None], float]:
    with tempfile.TemporaryDirectory() as folder:
        wanted = {str(shard): {"generations": number, "gone": []} for shard, number in shards.items()}
        document = {"settings": settings.model_dump(mode="json"), "output": folder, "seals": seals, "shards": wanted}
        train_shards(document)
        return {shard: safetensors.torch.load_file(f"{folder}/{shard}.safetensors") for shard in shards}, 0.0


def _best(rounds: int, **ways: Callable[[], Any]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    return {name: max(min(taken[1:]), 1e-6) for name, taken in seconds.items()}


def _bare(path: str, encoder: Encoder, rows: int) -> np.ndarray:
    """Return all columns of a file decoded, and those that are features in one matrix."""
    found = pq.ParquetFile(path).read(use_threads=False)
    out = np.empty((rows, encoder.features), dtype=np.float32)
    at = 0
    for column in encoder.columns:
        values = found.column(column.name).combine_chunks()
        place = out[:, at : at + column.width]
        if column.kind == "list":
            if pa.types.is_fixed_size_binary(values.type):  # as the lake keeps it
                place[:] = np.frombuffer(values.buffers()[1], np.float32).reshape(rows, -1)
            else:
                place[:] = values.values.to_numpy().reshape(rows, -1)
        elif column.kind in {"number", "bool"} and column.fill is None:
            place[:, 0] = values.to_numpy(zero_copy_only=False)
        else:
            place[:] = 0
        at += column.width
    return out


def encode(folder: Path, _: str) -> str:
    """Return ratios over the bare decode, kind by kind, what a served row takes, and what made all of it."""
    found = benchmarks.read(folder, "encode", "encode.csv")
    lines = []
    for kind in dict.fromkeys(case.rpartition(" x ")[0] for case in found):
        figures = [found.get(f"{kind} x {width}") for width in WIDTHS]
        reading = [
            "" if f is None else benchmarks.judged(f"{f['reading_ratio']:.1f}", f["reading_ratio"] <= GOAL)
            for f in figures
        ]
        ingestion = " / ".join("" if f is None else f"{f['ingestion_ratio']:.1f}" for f in figures)
        rows = " / ".join("" if f is None else f"{f['row_ms']:.2g}" for f in figures)
        verified = " / ".join("" if f is None else f"{f['verify_ratio']:.1f}" for f in figures)
        lines.append((kind, *reading, verified, ingestion, rows))
    shown = " / ".join(f"{width:,}" for width in WIDTHS)
    head = (
        "columns of",
        *(f"reading {width:,} (goal: {GOAL:g})" for width in WIDTHS),
        f"`verify`: {shown}",
        f"checking new rows: {shown}",
        f"a served row, ms: {shown}",
    )
    return table(head, lines) + benchmarks.made_by(folder, "encode", "encode.csv")
