"""Results of adapters on one frozen transformer: rows of docs/study/adapters.csv, and the tables made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.study_tables import table


@dataclass(frozen=True)
class Result:
    """One learner on some texts.

    Attributes:
        run: When it was written, in UTC.
        learner: `head`, `ia3` or `lora` of the task `adapter`, or a closed-form task on embeddings of the same model.
        rows: Training rows.
        held_out: Rows of the accuracy.
        shards: S.
        epochs: e′; 0 where sums are learned.
        length: Tokens of a text.
        trained: Numbers that a sub-model learns.
        accuracy: Of the ensemble on the held-out rows.
        train_seconds: All of the training: rows read and encoded, the task tried, every shard trained.
        deletion_seconds: One row, from acceptance to the applied version; the median of some.
        deletion_bytes: Of the checkpoints that it wrote; the median.
        held_bytes: Of all parameters in the memory of a replica, each tensor once.
        models_bytes: Of as many whole models.
        answers_per_second: Held-out rows that the ensemble answers in a second.
        one_per_second: Rows that one sub-model answers.
        exact: 1 where retraining from scratch in fresh processes gave the same bits at the end, else 0.
        hardware: As in the study's rows.
        versions: The same.
        commit: The same.
    """

    run: str
    learner: str
    rows: int
    held_out: int
    shards: int
    epochs: int
    length: int
    trained: int
    accuracy: float
    train_seconds: float
    deletion_seconds: float
    deletion_bytes: int
    held_bytes: int
    models_bytes: int
    answers_per_second: float
    one_per_second: float
    exact: int
    hardware: str
    versions: str
    commit: str


def adapters(folder: Path, _: str) -> str:
    """Return what adapters reach, and what a deletion costs."""
    found = _newest(folder)
    lines = [
        (
            one.learner,
            f"{one.rows:,}",
            str(one.shards),
            f"{one.trained:,}",
            f"{one.accuracy:.1%}",
            f"{one.train_seconds:,.0f} s",
            f"{one.deletion_seconds:.1f} s",
            f"{one.deletion_bytes / 1e3:,.0f} kB",
            "the same" if one.exact else "others",
        )
        for one in found
    ]
    measured = ("accuracy", "training", "one row applied", "bytes written", "bits of a retrain")
    return table(("learner", "rows", "shards", "trained numbers", *measured), lines) + _made(found)


def served(folder: Path, _: str) -> str:
    """Return what a replica holds and answers, beside one sub-model and beside as many whole models."""
    found = [one for one in _newest(folder) if one.epochs]
    lines = [
        (
            one.learner,
            str(one.shards),
            f"{one.held_bytes / 1e6:,.1f} MB",
            f"{one.models_bytes / 1e6:,.1f} MB",
            f"{one.answers_per_second:.1f}",
            f"{one.one_per_second:.1f}",
            f"{one.answers_per_second / one.one_per_second:.2f}",
        )
        for one in found
    ]
    head = ("learner", "sub-models", "parameters in memory", "as whole models", "answers a second", "of one", "ratio")
    return table(head, lines) + _made(found)


def _newest(folder: Path) -> list[Result]:
    return [*{one.learner: one for one in csvfile.read(folder / "adapters.csv", Result)}.values()]


def _made(found: list[Result]) -> str:
    made = dict.fromkeys(f"{f.hardware}; {f.versions}; commit {f.commit}; {f.run[:10]}" for f in found)
    return "".join(f"\n\nMade by: {line}." for line in made)
