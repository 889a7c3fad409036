"""Rows that are encoded by tasks of the cluster: the bytes of one process, broken rows, and workers that are killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import hybridmu
from hybridmu.core.features import text_values
from hybridmu.errors import DataError, StateError
from tests.ray import support

pytestmark = pytest.mark.usefixtures("cluster")
ODD, FATAL = "tests.scenes.odd_encoders:Surroundings", "tests.scenes.odd_encoders:Fatal"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """More parts than are encoded by the driver, of a small table."""
    monkeypatch.setattr(text_values, "PART", 8)


def raw(folder: Path, texts: list[str | None], encoder: Any = ODD) -> dict[str, Any]:
    labels = ["yes" if n % 3 else "no" for n in range(len(texts))]
    pq.write_table(
        pa.table({"id": range(len(texts)), "note": pa.array(texts, pa.string()), "label": labels}),
        folder / "t.parquet",
        row_group_size=21,
    )
    return {
        "data": {"train": str(folder / "t.parquet"), "test_fraction": 0},
        "features": {"text": {"note": encoder}},
        "task": {"name": "lda"},
        "policy": {"retention_seconds": 1e9},
        "storage_url": str(folder / "storage"),
    }


def texts(rows: int = 100) -> list[str | None]:
    draw = np.random.default_rng(0)
    return ["".join(draw.choice([*"abc "], draw.integers(0, 90))) for _ in range(rows)]


def stored(system: hybridmu.System) -> tuple[bytes, bytes]:
    tables = system.session.lake.shard("train", 0)
    (rows,) = tables.rows(np.arange(len(tables.outline)))
    return rows.x.numpy().tobytes(), rows.content.tobytes()


@pytest.mark.parametrize("encoder", [ODD, {"name": FATAL, "once": "once", "alive": -1}])
def test_rows_and_models_are_those_of_one_process_and_a_killed_worker_is_replaced(tmp_path: Path, encoder: Any) -> None:
    some = texts()
    if isinstance(encoder, dict):
        some[70] = "die"
        encoder = {**encoder, "once": str(tmp_path / "once"), "alive": os.getpid()}
    found = []
    for executor in ("ray", "local"):
        folder = tmp_path / executor
        folder.mkdir()
        with hybridmu.connect(raw(folder, some, encoder), executor=executor) as system:
            told: list[int] = []
            system.train(watch=lambda snapshot, told=told: told.append(snapshot.rows_read or 0))
            assert [rows for rows in told if rows] == sorted(rows for rows in told if rows)
            assert max(told) == 100
            pq.write_table(
                pa.table({"id": range(500, 560), "note": texts(60), "label": ["yes"] * 60}), folder / "more.parquet"
            )
            system.ingest(str(folder / "more.parquet"), wait=True)
            found.append((stored(system), support.blobs(system)))
    assert found[0] == found[1]
    assert ray.is_initialized(), "the cluster was there before, and stays"


def test_a_broken_row_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    some = texts()
    some[60] = some[80] = None
    with hybridmu.connect(raw(tmp_path, some), executor="ray") as system:
        with pytest.raises(DataError, match=r"row 61 of .*: column 'note' has a null"):
            system.train()
        assert not list((tmp_path / "storage").rglob("*.parquet"))


def test_rows_that_end_every_worker_end_the_command(tmp_path: Path) -> None:
    some = texts()
    some[70] = "die"
    with hybridmu.connect(raw(tmp_path, some, {"name": FATAL, "alive": os.getpid()}), executor="ray") as system:
        with pytest.raises(StateError, match="3 times with the same rows"):
            system.train()
        assert not list((tmp_path / "storage").rglob("*.parquet"))
