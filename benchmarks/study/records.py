"""Rows of the study's CSV files: one per (system, request mix, strategy, seed), and what machine made it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study import csvfile

Key = tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """One measurement; everything in it may be published. Empty text stands for what does not apply.

    Attributes:
        dataset: Built-in dataset.
        model: Built-in task.
        shards: S.
        slices: R.
        epochs: Plain-training epochs.
        mix: Request mix (`mixes.py`).
        strategy: Contender (`grid.py`).
        seed: Of the system, of the mix.
        rows: Training rows.
        revoked: Rows that the request revokes.
        touched: Shards that held one.
        workers: Jobs that ran at once.
        wall_seconds: From dispatch to the last job's result, I/O included.
        device_seconds: Sum over the jobs, I/O included.
        cpu_seconds: Processor seconds of the same (less than `device_seconds` where others used the machine too).
        repair_seconds: Device-seconds of the exact retrains that an approximate outcome still owes.
        visits: Sample visits made.
        estimated_seconds: Makespan that the planner predicted.
        rules: Rule that retrained, or the update that was chosen → shards, as `dpus-newton 3, quality 5`.
        accuracy: Test accuracy of the ensemble.
        oracle_accuracy: The oracle's.
        forget_loss: Mean loss on the revoked rows, each by the sub-model of its shard.
        oracle_forget_loss: The oracle's.
        noise_gap: Forget loss of an oracle with another data order minus the oracle's.
        noise_accuracy: The same for test accuracy.
        forget_accuracy: Accuracy on the revoked rows, each by the sub-model of its shard.
        oracle_forget_accuracy: The oracle's.
        retain_accuracy: Accuracy on the live rows of touched shards, each by its own sub-model.
        oracle_retain_accuracy: The oracle's.
        tow: (1 − |Δ forget|)(1 − |Δ retain|)(1 − |Δ test|), accuracies against the oracle's.
        bitwise: Touched sub-models that equal the oracle's bit for bit.
        applied_p50: Of a stream: median seconds from arrival to an applied version, in simulated time.
        applied_p95: 95th percentile of the same.
        hardware: Processor kind, instruction set, cores, device.
        versions: Of Python, torch, numpy, hybridmu.
        commit: Of the code; `+` marks uncommitted changes besides `docs/`, where the rows go.
    """

    dataset: str
    model: str
    shards: int
    slices: int
    epochs: int
    mix: str
    strategy: str
    seed: int
    rows: int
    revoked: int
    touched: int
    workers: int
    wall_seconds: float
    device_seconds: float
    cpu_seconds: float
    repair_seconds: float
    visits: int
    estimated_seconds: float | None
    rules: str
    accuracy: float
    oracle_accuracy: float
    forget_loss: float
    oracle_forget_loss: float
    noise_gap: float
    noise_accuracy: float
    forget_accuracy: float
    oracle_forget_accuracy: float
    retain_accuracy: float
    oracle_retain_accuracy: float
    tow: float
    bitwise: int
    applied_p50: float | None = None
    applied_p95: float | None = None
    hardware: str = ""
    versions: str = ""
    commit: str = ""

    @property
    def key(self) -> Key:
        """Return what names the measurement."""
        named = (self.dataset, self.model, self.shards, self.slices, self.epochs, self.mix, self.strategy, self.seed)
        return tuple(map(str, named))

    @property
    def gap(self) -> float:
        """Return the two-sided forget-loss gap."""
        return self.forget_loss - self.oracle_forget_loss


def read(path: Path) -> list[Record]:
    """Return the records of a file, in its order; none when it is not there."""
    return csvfile.read(path, Record)


def append(path: Path, records: Iterable[Record]) -> None:
    """Append records to a file, with a header when it is new."""
    csvfile.append(path, records, Record)


def named(setup: Sequence[object], mix: str, strategy: str, seed: int) -> Key:
    """Return the key of a measurement that may not be there yet.

    Args:
        setup: Dataset, model, S, R, epochs.
        mix: Request mix.
        strategy: Contender.
        seed: Seed.
    """
    return tuple(map(str, (*setup, mix, strategy, seed)))


@cache
def environment() -> dict[str, Any]:
    """Return hardware, versions and commit of this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = os.cpu_count()
    return {
        "hardware": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {cores} cores {device}",
        "versions": f"python {platform.python_version()} torch {torch.__version__} numpy {np.__version__} "
        f"hybridmu {importlib.metadata.version('hybridmu')}",
        "commit": _commit(),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ":/", ":/!docs") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
