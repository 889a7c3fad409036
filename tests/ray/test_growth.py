"""New data on Ray: actors that hold a shard see the new rows, and give the bits that one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest

import hybridmu
from tests.ray import support
from tests.support import make_table

SISA = {"shards": 4, "slices": 2, "epochs": 2}


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
def test_new_and_corrected_rows_come_in_like_in_one_process(tmp_path: Path) -> None:
    configs = [support.config(tmp_path, name, sisa=SISA) for name in ("alone", "two")]
    make_table(tmp_path / "new.parquet", 40, features=8, start=100_000, seed=3)
    make_table(tmp_path / "better.parquet", 3, features=8, start=100_000, seed=4)
    with hybridmu.connect(configs[0], executor="local") as alone, hybridmu.connect(configs[1]) as system:
        for one in (alone, system):
            one.train()
        before = support.blobs(system)
        for one in (alone, system):
            assert one.ingest(tmp_path / "new.parquet", slices=2, wait=True)["state"] == "SERVED"
        assert support.blobs(system) == support.blobs(alone) != before
        for one in (alone, system):
            assert one.forget(ids=[100_010], strategy="retrain", wait=True)["state"] in {"SERVED", "PURGED"}
        assert support.blobs(system) == support.blobs(alone)
        for one in (alone, system):  # ids that an actor has seen go come back with it
            assert one.correct(tmp_path / "better.parquet", wait=True)["ingestion"]["rows"] == 3
        assert support.blobs(system) == support.blobs(alone)
