"""Results of models on frozen features: rows of docs/study/features.csv, and the table made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.benchmarks import judged
from benchmarks.study.study_tables import table

_ACCURACY = {"reviews": 0.85, "cifar10": 0.85}  # at least
_BEHIND = 0.01  # of scikit-learn's logistic regression on the same features, at most
_THROUGHPUT = 0.8  # of the bare encoders', at least


@dataclass(frozen=True)
class Result:
    """A system on frozen features of one built-in dataset.

    Attributes:
        run: When it was written, in UTC.
        example: Its configuration.
        rows: Training rows.
        features: How many each row has.
        accuracy: On the test rows.
        logistic: Of scikit-learn's logistic regression on the same features.
        train_seconds: All of the training, tables read and encoded.
        encode_ratio: Throughput of an ingestion of new rows over that of their bare encoders.
        values_per_second: Of the bare encoders.
        applied_ms: One row subtracted, from acceptance to the applied version; the median.
        hardware: As in the study's rows.
        versions: The same.
        commit: The same.
    """

    run: str
    example: str
    rows: int
    features: int
    accuracy: float
    logistic: float
    train_seconds: float
    encode_ratio: float
    values_per_second: float
    applied_ms: float
    hardware: str
    versions: str
    commit: str


def features(folder: Path, _: str) -> str:
    """Return what models on frozen features reach, and what it takes."""
    found = {one.example: one for one in csvfile.read(folder / "features.csv", Result)}
    lines = []
    for one in found.values():
        goal = _ACCURACY[one.example.partition("-")[0]]
        lines.append((
            f"examples/{one.example}.yaml",
            f"{one.rows:,}",
            f"{one.features:,}",
            judged(f"{one.accuracy:.1%}", one.accuracy >= goal),
            judged(f"{one.logistic:.1%}", one.accuracy >= one.logistic - _BEHIND),
            f"{one.train_seconds:,.0f} s",
            f"{one.values_per_second:,.0f} a second",
            judged(f"{one.encode_ratio:.2f}", one.encode_ratio >= _THROUGHPUT),
            f"{one.applied_ms:,.0f} ms",
        ))
    measured = ("accuracy", "logistic regression", "training", "bare encoder", "ingestion / bare", "one row applied")
    head = ("configuration", "rows", "features", *measured)
    made = dict.fromkeys(f"{f.hardware}; {f.versions}; commit {f.commit}; {f.run[:10]}" for f in found.values())
    return table(head, lines) + "".join(f"\n\nMade by: {line}." for line in made)
