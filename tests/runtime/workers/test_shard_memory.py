"""A shard actor's memory: at most twice its rows, three times its parameters, and the checkpoints in flight."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS, WIDTH, HIDDEN, SLICES = 24_000, 1024, 2048, 3

INGEST = """
import json, sys
from hybridmu.config import Settings
from hybridmu.store.storage.storage import Storage
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.lake import Lake

settings = Settings.parse(json.loads(sys.argv[1]))
ingest(Lake(settings, Storage(settings.storage_url)))
"""

MEASURE = """
import json, sys
from pathlib import Path
from hybridmu.config import Settings
from hybridmu.core.kernel.partition import digest
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.types import KeySet, RetrainJob

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def retrain(settings, gone=()):
    worker = ShardWorker(settings, 0)
    ids = KeySet(("id", digest(worker.site.lake.key, "id", row)) for row in gone)
    first = worker.retrain(RetrainJob(job_id="first", shard=0))
    return first, worker.retrain(RetrainJob(job_id="second", shard=0, tombstones=ids))

small, large = (Settings.parse(json.loads(raw)) for raw in sys.argv[1:])
retrain(small, [3])  # loads what is loaded once
before = status("VmRSS")
first, second = retrain(large, range(0, 1000))
print(json.dumps([status("VmHWM") - before, second.live, first.rows_read, second.rows_read]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.slow
def test_a_shard_stays_within_twice_its_rows_parameters_and_checkpoints(tmp_path):
    raws = []
    for name, rows in (("small", 200), ("large", ROWS)):
        values = pa.array(np.random.default_rng(0).random(rows * WIDTH, dtype=np.float32))
        table = {"id": np.arange(rows), "label": np.arange(rows) % 2}
        table["v"] = pa.FixedSizeListArray.from_arrays(values, WIDTH)
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet", row_group_size=2_000)
        raw = {
            "data": {"train": str(tmp_path / f"{name}.parquet"), "classes": [0, 1], "test_fraction": 0},
            "task": {"name": "mlp", "hidden": [HIDDEN]},
            "sisa": {"shards": 1, "slices": SLICES, "epochs": 1, "batch_size": 500},
            "optimizer": {"lr": 0.01},
            "storage_url": str(tmp_path / f"{name}-storage"),
        }
        subprocess.run([sys.executable, "-c", INGEST, json.dumps(raw)], check=True)
        raws.append(json.dumps(raw))
    done = subprocess.run([sys.executable, "-c", MEASURE, *raws], capture_output=True, text=True, check=True)
    used, live, *read = json.loads(done.stdout)
    assert read == [ROWS, 0], "what is in memory is not read again"
    assert live == ROWS - 1000, "rows were deleted, so that they were copied"
    parameters = 4 * (WIDTH * HIDDEN + HIDDEN + HIDDEN * 2 + 2)
    allowed = 2 * (4 * ROWS * WIDTH + (3 + SLICES) * parameters)
    assert used <= allowed, f"{used / 2**20:.0f} MB, {allowed / 2**20:.0f} MB are allowed"
