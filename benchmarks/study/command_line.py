"""Processor seconds of whole processes of the command line, verb by verb, over an interpreter that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.study import benchmarks
from benchmarks.study.study_tables import table

FILE = "cli.csv"
_MAIN = "from hybridmu.cli.start import main; main()"
# Seconds on two quiet cores: what reads nothing, and what looks at requests and rows.
_HELP, _LOOK = 0.3, 1.0
# Verb → goal; those without one work with models.
_GOALS = {
    "--version": _HELP,
    "--help": _HELP,
    "status": _LOOK,
    "requests list": _LOOK,
    "requests show": _LOOK,
    "forget": _LOOK,
    "holds": _LOOK,
    "tokens list": _LOOK,
    "plan": None,
    "verify": None,
}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return verb → processor seconds of its process, the best of some rounds taken in turns, and their ratio.

    Args:
        rounds: How many.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = _trained(Path(folder))
        name = _output("requests", "list", "--json", "-c", config).partition('"request_id": "')[2].partition('"')[0]
        more = {"requests show": [name], "forget": ["--id", "7"], "plan": ["--id", "8"]}
        calls = {
            verb: verb.split() if verb.startswith("-") else [*verb.split(), *more.get(verb, []), "-c", config]
            for verb in _GOALS
        }
        seconds: dict[str, list[float]] = {name: [] for name in ("bare", *calls)}
        for _ in range(rounds):
            seconds["bare"].append(_seconds([sys.executable, "-c", "pass"]))
            for verb, words in calls.items():
                seconds[verb].append(_seconds([sys.executable, "-c", _MAIN, *words]))
    best = {name: min(taken) for name, taken in seconds.items()}
    return {name: {"processor_seconds": took, "ratio": took / best["bare"]} for name, took in best.items()}


def command_line(folder: Path, _: str) -> str:
    """Return processor seconds per verb, and what made them."""
    lines = []
    for verb, found in benchmarks.read(folder, "cli", FILE).items():
        took, goal = found["processor_seconds"], _GOALS.get(verb)
        shown = f"{took:.2f} s"
        lines.append((
            "an interpreter, `python -c pass`" if verb == "bare" else f"`hybridmu {verb}`",
            "" if goal is None else f"{goal:g} s",
            shown if goal is None else benchmarks.judged(shown, took <= goal),
            f"{found['ratio']:.1f}",
        ))
    head = ("process", "goal", "processor seconds", "over the interpreter")
    return table(head, lines) + benchmarks.made_by(folder, "cli", FILE)


def _trained(folder: Path) -> str:
    """Return the configuration of a small trained system with a request that waits."""
    generator = np.random.default_rng(0)
    columns = {f"x{number}": generator.random(400) for number in range(8)}
    made = pa.table({"id": range(400), **columns, "label": generator.integers(0, 2, 400)})
    pq.write_table(made, folder / "train.parquet")
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump({
            "data": {"train": str(folder / "train.parquet"), "id": "id", "label": "label"},
            "task": {"name": "linear"},
            "sisa": {"shards": 2, "slices": 2, "epochs": 1},
            "storage_url": str(folder / "storage"),
        })
    )
    _output("train", "--local", "-c", str(config))
    _output("forget", "--id", "5", "-c", str(config))
    return str(config)


def _output(*words: str) -> str:
    return subprocess.run([sys.executable, "-c", _MAIN, *words], capture_output=True, text=True, check=True).stdout


def _seconds(command: Sequence[str]) -> float:
    """Return the processor seconds of a process and of those that it waited for.

    Raises:
        RuntimeError: It failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime
