"""The person of the demo: whose review goes, and what the model answers before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridmu.system.system import System

Row = dict[str, Any]
Answers = Mapping[int, Sequence[Mapping[str, Any]]]


def asked_of(system: System, rows: Sequence[Row]) -> list[Row]:
    """Return rows as they are to be predicted: every feature column, neither id nor label.

    Args:
        system: A trained system.
        rows: As the owner's table has them.
    """
    names = [column.name for column in system.feature_columns()]
    return [{name: row[name] for name in names} for row in rows]


def chosen(system: System, rows: Sequence[Row]) -> Row:
    """Return the row whose own answer hangs most on it: right, by the smallest lead over another class.

    Most answers don't change by one row. Here one sees best what a row does to a model.

    Args:
        system: A trained system.
        rows: Training rows to choose from, as the owner's table has them.
    """
    label = system.settings.data.label
    leads = [
        (_lead(answer["probabilities"], str(row[label])), at)
        for at, (row, answer) in enumerate(
            zip(rows, system.predict(asked_of(system, rows))["predictions"], strict=True)
        )
    ]
    return rows[min(leads, key=lambda one: (one[0] < 0, abs(one[0])))[1]]


def compared(rows: Sequence[Row], label: str, answers: Answers, versions: tuple[int, int]) -> list[dict[str, Any]]:
    """Return what two versions answered to each row.

    Args:
        rows: As the owner's table has them; the person's is the first.
        label: The column that says what is right.
        answers: Version → predictions, in the order of the rows.
        versions: Before and after.

    Returns:
        Per row: the right class, and of both versions the answered class with its probability, and that of the right
        class. Nothing where a version answered nobody.
    """
    if not all(version in answers for version in versions):
        return []
    before, after = (answers[version] for version in versions)
    return [
        {"row": row, "label": str(row[label]), "before": _answer(row[label], one), "after": _answer(row[label], other)}
        for row, one, other in zip(rows, before, after, strict=True)
    ]


def _lead(probabilities: Mapping[str, float], label: str) -> float:
    return probabilities[label] - max(value for name, value in probabilities.items() if name != label)


def _answer(label: object, prediction: Mapping[str, Any]) -> dict[str, Any]:
    probabilities = prediction["probabilities"]
    answered = str(prediction["label"])
    return {"label": answered, "probability": probabilities[answered], "of_right": probabilities[str(label)]}
