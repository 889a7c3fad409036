"""The benchmark of reading: it measures what it says on a small table of every kind, and its table judges the goal."""

from __future__ import annotations

import pytest

from benchmarks.study import benchmarks, encoding


@pytest.mark.parametrize("kind", encoding.KINDS)
@pytest.mark.sampled
def test_every_kind_is_measured(kind):
    found = encoding.measure(kind, 2, 1, cells=64)
    assert set(found) == {"rows", "bare_seconds", "reading_ratio", "ingestion_ratio", "row_ms", "verify_ratio"}
    assert min(found.values()) > 0


def test_the_table_has_a_column_per_width_and_says_what_is_missed(tmp_path):
    figures = {"rows": 64, "bare_seconds": 0.1, "ingestion_ratio": 3.0, "row_ms": 0.25, "verify_ratio": 4.5}
    cases = {"bool x 1": {**figures, "reading_ratio": 1.5}, "bool x 784": {**figures, "reading_ratio": 2.5}}
    benchmarks.write(tmp_path / "encode.csv", "encode", cases)
    lines = encoding.encode(tmp_path, "").splitlines()
    four, three, quarter = (f"{figure} /  /  / {figure} / " for figure in (4.5, 3.0, 0.25))
    assert lines[2] == f"| bool | **1.5** |  |  | 2.5 (missed) |  | {four} | {three} | {quarter} |"
    assert lines[-1].startswith("Made by: ")
