"""Price list of forgetting: ways to train the same rows, what each is worth, and what a deletion costs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHARDS = (1, 2, 4, 8, 16)
_SLICES = (1,)
# A sub-model that sees fewer rows learns little, and its shard's deletions say little.
FEWEST_ROWS = 50


@dataclass(frozen=True)
class Candidate:
    """A way to train.

    Attributes:
        name: As people pick it: `S4-R4-adamw`.
        changes: Section of the configuration → its keys with other values.
    """

    name: str
    changes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Price:
    """What a deletion costs.

    Attributes:
        seconds: From its start to the exact model, on one worker per touched shard.
        device_seconds: Of all workers together.
    """

    seconds: float
    device_seconds: float


@dataclass(frozen=True)
class Offer:
    """A candidate that was tried.

    Attributes:
        candidate: Which.
        score: Accuracy of the ensemble on held-out rows; R² where numbers are learned.
        loss: Log loss of the same, or RMSE.
        single_score: Mean score of single sub-models.
        training_seconds: On one worker.
        row: Of deleting one row.
        person: Of deleting one person; None without groups.
        hundredth: Of deleting one row in a hundred, at once.
        exactness: What a removal guarantees.
        measured_seconds: What the deletion of one row really took, of those it is estimated from.
    """

    candidate: Candidate
    score: float
    loss: float
    single_score: float
    training_seconds: float
    row: Price
    person: Price | None
    hundredth: Price
    exactness: str
    measured_seconds: float

    @property
    def dearness(self) -> float:
        """Return the device-seconds of the deletion that people ask for: of a person, or of a row."""
        return (self.person or self.row).device_seconds


def candidates(
    rows: int,
    asked: tuple[int, int],
    other: Mapping[str, Mapping[str, Any]] | None = None,
    fewest: int = FEWEST_ROWS,
) -> list[Candidate]:
    """Return what is tried, most telling first: the configuration's own, then a grid of shards, slices and recipes.

    Args:
        rows: Training rows that are tried with.
        asked: Shards and slices of the configuration.
        other: Section → keys of another recipe than its own; None: only its own is tried.
        fewest: Rows that a shard has at least; what has fewer is left out.

    Returns:
        Each combination once.

    Example:
        >>> [one.name for one in candidates(300, (2, 4))]
        ['S2-R4', 'S1-R4', 'S4-R4', 'S1-R1', 'S2-R1', 'S4-R1']
    """
    recipes: list[tuple[str, Mapping[str, Mapping[str, Any]]]] = [("", {})]
    if other is not None:
        recipes.append(("-adamw", other))
    grid = [(shards, slices) for slices in sorted({*_SLICES, asked[1]}, reverse=True) for shards in _SHARDS]
    order = [asked, *(pair for pair in grid if pair != asked)]
    fitting = [(shards, slices) for shards, slices in order if rows // shards >= fewest]
    return [
        Candidate(f"S{shards}-R{slices}{suffix}", {**recipe, "sisa": {"shards": shards, "slices": slices}})
        for shards, slices in fitting
        for suffix, recipe in recipes
    ]


def front(offers: Sequence[Offer]) -> set[str]:
    """Return the names of offers that no other one beats in score and in the cost of a deletion (Pareto front).

    Args:
        offers: What was tried.
    """
    return {
        one.candidate.name
        for one in offers
        if not any(
            other.score >= one.score
            and other.dearness <= one.dearness
            and (other.score, -other.dearness) != (one.score, -one.dearness)
            for other in offers
        )
    }


def with_changes(document: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a configuration with other values of some keys; sections are made where they lack.

    Args:
        document: As read from YAML.
        changes: Section → keys.

    Example:
        >>> with_changes({"data": {"train": "t"}}, {"sisa": {"shards": 2}})
        {'data': {'train': 't'}, 'sisa': {'shards': 2}}
    """
    made = dict(document)
    for section, keys in changes.items():
        made[section] = {**(made.get(section) or {}), **keys}
    return made
