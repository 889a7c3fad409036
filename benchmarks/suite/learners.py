"""Learners beside each other: how right each is, what a deletion costs, and in what sense it is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.study_tables import table
from benchmarks.suite import features, records

# Tables of some size, columns of several kinds; `suite` and `closed_form` show all that were measured.
_TABLES = ("adult", "magic", "spambase", "letter", "mnist")
_ENCODED = {"reviews": ("text", "`wordllama` + `ngrams`"), "cifar10-encoder": ("pictures", "`efficientnet-lite0`")}
_CLOSED_FORM = {"task.name=lda": "`lda`", "task.name=lda task.project=2048": "`lda`, `project: 2048`"}
_SUMS, _BITS = "exact sums: the same bits on any machine", "bits of a retrain: the same on one kind of machine"

_Row = tuple[str, str, str, str, str, str, str]


def learners(folder: Path, _: str) -> str:
    """Return texts, pictures and tables with the learners that were measured on each."""
    head = ("data", "table", "training rows", "learner", "accuracy", "forget one row", "exactness")
    return table(head, [*_encoded(folder), *_tables(folder)])


def _encoded(folder: Path) -> Iterator[_Row]:
    found = {one.example: one for one in csvfile.read(folder / "features.csv", features.Result)}
    for example, (data, encoders) in _ENCODED.items():
        one = found[example]
        learner = f"`lda` on {encoders}"
        yield (
            data,
            f"examples/{example}.yaml",
            f"{one.rows:,}",
            learner,
            f"{one.accuracy:.1%}",
            f"{one.applied_ms / 1000:.2f} s",
            _SUMS,
        )


def _tables(folder: Path) -> Iterator[_Row]:
    networks = {one.table: one for one in records.newest(folder / "suite.csv")}
    sums = {(one.table, one.changes): one for one in records.newest(folder / "closed_form.csv")}
    for name in _TABLES:
        ways = [(learner, sums[name, changes], _SUMS) for changes, learner in _CLOSED_FORM.items()]
        for learner, one, exactness in [*ways, ("`mlp`, nothing set", networks[name], _BITS)]:
            yield (
                "table",
                name,
                f"{one.rows:,}",
                learner,
                f"{one.ours:.1f}%",
                f"{one.forget_seconds:.2f} s",
                exactness,
            )
