"""Tables of adapters, from lines of their CSV file; and one line that is measured, on a transformer of two layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bench_adapters import measured
from benchmarks.study import csvfile
from benchmarks.suite.adapters import Result, adapters, served
from tests.benchmarks.test_quality_suite import lines
from tests.scenes.tiny_transformer import texts_of, write_transformer

LINE = Result(
    **{"run": "2026-12-01T06:00:00+00:00", "learner": "ia3", "rows": 320, "held_out": 200, "shards": 4, "epochs": 3},
    **{"length": 48, "trained": 16_134, "accuracy": 0.75, "train_seconds": 100.0, "deletion_seconds": 9.5},
    **{"deletion_bytes": 130_000, "held_bytes": 91_000_000, "models_bytes": 364_000_000},
    **{"answers_per_second": 4.0, "one_per_second": 16.0, "exact": 1, "hardware": "h", "versions": "v", "commit": "c"},
)


def test_tables_have_the_newest_line_of_each_learner(tmp_path):
    sums = replace(LINE, learner="lda on sentences", epochs=0, exact=0)
    csvfile.append(tmp_path / "adapters.csv", [replace(LINE, accuracy=0.1), LINE, sums], Result)
    head, _, first, second = lines(adapters(tmp_path, ""))
    assert first[head.index("accuracy")] == "75.0%"
    assert first[head.index("bytes written")] == "130 kB"
    assert [row[-1] for row in (first, second)] == ["the same", "others"]
    head, _, only = lines(served(tmp_path, ""))
    assert (only[0], only[head.index("ratio")]) == ("ia3", "0.25")
    assert adapters(tmp_path, "").endswith("Made by: h; v; commit c; 2026-12-01.")


@pytest.mark.slow
def test_a_line_is_measured(tmp_path, monkeypatch):
    folder = tmp_path / "reviews"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, start, count in (("train", 0, 60), ("test", 60, 10)):
        columns = {"id": range(start, start + count), "age": draw.integers(18, 80, count)}
        columns |= {"rating": draw.integers(1, 6, count), "review": texts_of(count, seed=start)}
        columns["department"] = draw.choice(["Dresses", "Tops"], count)
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    monkeypatch.setenv("HYBRIDMU_DATA", str(tmp_path))
    found = measured("ia3", write_transformer(tmp_path / "bert"), 40, 20, 1, 12)
    assert (found.exact, found.shards, found.trained) == (1, 4, 2 * (2 * 32 + 48) + 2 * 33)
    assert found.held_bytes < found.models_bytes
    assert 0 < found.deletion_bytes < 20_000
