"""Figures of benchmarks: what is written is what the tables show, the last run counts, and goals are judged."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks import bench_requests
from benchmarks.study import benchmarks, torchunlearn

STEP = {"ratio": 0.5, "first_seconds": 1.0, "accuracy": 0.9, "same_bits": True}
SERVED = {
    **dict.fromkeys(("throughput_ratio", "p99_ratio", "requests_per_second", "p50_ms", "p99_ms", "swaps"), 1.0),
    **dict.fromkeys(("answers", "quarantine_p50_seconds", "quarantine_p95_seconds"), 0.4),
    **dict.fromkeys(("failed_requests", "answers_older_than_served", "answers_that_counted_a_quarantined_shard"), 0),
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "benchmarks.csv"


def test_the_last_run_of_every_case_counts(out):
    benchmarks.write(out, "loop", {"float32": STEP, "bfloat16": {**STEP, "ratio": 3.0}})
    time.sleep(0.002)
    benchmarks.write(out, "loop", {"float32": {**STEP, "ratio": 0.7}})
    assert {case: f["ratio"] for case, f in benchmarks.read(out.parent, "loop").items()} == {
        "float32": 0.7,
        "bfloat16": 3.0,
    }
    assert benchmarks.loop(out.parent, "").splitlines()[2:] == [
        "| float32 | **0.70** | 1.00 s | 90.0 % | yes |",
        "| bfloat16 | 3.00 (missed) | 1.00 s | 90.0 % | yes |",
    ]
    assert benchmarks.made(out.parent, "").splitlines()[2].startswith("| loop | 20")
    benchmarks.write(None, "loop", {"float32": STEP})
    assert benchmarks.read(out.parent, "loop")["float32"]["ratio"] == 0.7, "no file was named"


def test_what_is_measured_of_requests_is_what_their_table_shows(out):
    accepted, planned = bench_requests.accept(12_000, 100.0, 0.1), bench_requests.plan(20, 100)
    benchmarks.write(out, "accept", {"": accepted})
    benchmarks.write(out, "plan", {"": planned})
    table = benchmarks.requests(out.parent, "")
    assert "accept a request, durable, 100 a second, 12,000 known ids" in table
    assert "plan 20 shards with 100 pending ids" in table
    assert f"{accepted['ten_thousand_ids_s']:.2f} s" in table


def test_predictions_are_shown_size_by_size(out):
    figure = {"median_gap": 0.01, "median_error_plus_spread": 0.1}
    cases = {
        f"adult, sgd, dpus, {size:g}": {**figure, "size": size, "deletions": 8, "below": below}
        for size, below in ((0.1, 1.0), (0.003, 0.75))
    }
    benchmarks.write(out, "calibration", cases)
    assert benchmarks.coverage(out.parent, "").splitlines()[::2] == [
        "| data | optimizer | update | deletions | 0.3 % of a shard | 10 % of a shard | all sizes |",
        "| adult | sgd | dpus | 16 | 75 %, 0.010 of 0.100 | 100 %, 0.010 of 0.100 | 88 % |",
    ]


def test_goals_that_are_missed_are_called_so(out):
    given = {"seconds_to_applied": 0.39, "worker_seconds": 0.2, "bitwise_equal": True, "requests": 5, "peer_tainted": 1}
    both = {"one row": {**given, "peer_seconds": 0.78}, "one 64-row user": {**given, "peer_seconds": 0.7}}
    benchmarks.write(out, "peers", both)
    assert "| one row | **0.39 s** | 0.20 s | yes | 0.78 s | 2.0 times | 100 % |" in benchmarks.peers(out.parent, "")
    assert "| one 64-row user | 0.39 s (missed) |" in benchmarks.peers(out.parent, "")
    figure = {"seconds": 0.5, "cpu_seconds": 0.5, "faster": 9.0, "faster_cpu": 7.9}
    names = ("retrain", "dpus", "dpus-newton", "dpus-optimised", "rewind")
    benchmarks.write(out, "update", {f"mnist/mlp, 1% {name}": figure for name in names})
    assert "| mnist/mlp, 1% | 500 ms | 9.0 / 7.9 (missed) | 9.0 / 7.9 (missed) | 9.0 / 7.9 |" in benchmarks.updates(
        out.parent, ""
    )
    benchmarks.write(out, "serving", {"one process": SERVED, "HAProxy": {**SERVED, "failed_requests": 2}})
    table = benchmarks.serving(out.parent, "")
    assert "| what | one process | HAProxy | goal |" in table
    assert "| of these, failed | **0** | 2 (missed) | 0 |" in table


def test_a_peer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a checkout of Harry24k/machine-unlearning-pytorch"):
        torchunlearn.Peer(
            tmp_path,
            torch.zeros(8, 2),
            torch.arange(8) % 2,
            hidden=2,
            shards=2,
            epochs=(1, 1),
            batch_size=2,
            lr=0.1,
            folder=tmp_path,
        )
