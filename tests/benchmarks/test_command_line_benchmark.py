"""The benchmark of the command line: its processes are counted whole, and its table judges the goals."""

from __future__ import annotations

import sys

import pytest

from benchmarks.study import benchmarks, command_line


def test_processor_seconds_are_those_of_the_process_alone():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert 0.3 <= command_line._seconds([sys.executable, "-c", busy]) < 3.0
    with pytest.raises(RuntimeError, match="ended with 3"):
        command_line._seconds([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_table_judges_what_has_a_goal(tmp_path):
    cases = {
        "bare": {"processor_seconds": 0.02, "ratio": 1.0},
        "--help": {"processor_seconds": 0.2, "ratio": 10.0},
        "status": {"processor_seconds": 1.5, "ratio": 75.0},
        "verify": {"processor_seconds": 4.0, "ratio": 200.0},
    }
    benchmarks.write(tmp_path / "cli.csv", "cli", cases)
    lines = command_line.command_line(tmp_path, "").splitlines()
    assert lines[2:6] == [
        "| an interpreter, `python -c pass` |  | 0.02 s | 1.0 |",
        "| `hybridmu --help` | 0.3 s | **0.20 s** | 10.0 |",
        "| `hybridmu status` | 1 s | 1.50 s (missed) | 75.0 |",
        "| `hybridmu verify` |  | 4.00 s | 200.0 |",
    ]
    assert lines[-1].startswith("Made by: ")
