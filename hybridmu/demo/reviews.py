"""The demo's reviews: the two configurations that learn them, and who asks to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hybridmu.config import Settings
from hybridmu.kinds import LEARNER_OF_TASK, STRATEGY_OF_LEARNER

Row = dict[str, Any]

DATASET = "reviews"
# Both models learn the same: the age of the writer, the stars, and what a frozen encoder makes of the words.
_DATA: dict[str, Any] = {"name": DATASET, "features": ["age", "rating"]}
_FEATURES: dict[str, Any] = {"text": {"review": "wordllama"}}
_SCALE = {"age": 0.01, "rating": 0.2}
_CANDIDATES, _SHORT, _LONG = 4_000, 60, 240
_OTHERS, _BATCH_SHARE = 3, 0.01


@dataclass(frozen=True)
class Asked:
    """Who asks to be forgotten, and whose reviews are looked at beside.

    Attributes:
        person: The person's row, as the owner of the data has it.
        people: Ids of the rows of many other people, who ask at once.
        others: Rows of people who stay, of the test table.
    """

    person: Row
    people: tuple[int, ...]
    others: tuple[Row, ...]

    @property
    def rows(self) -> list[Row]:
        """Return the rows that clients ask about: the person's first."""
        return [self.person, *self.others]

    def ids(self, name: str) -> list[int]:
        """Return the ids of all who ask.

        Args:
            name: The column of ids.
        """
        return [self.person[name], *self.people]


def sums_settings(folder: Path) -> Settings:
    """Return the configuration of the closed-form model: a linear discriminant analysis of all reviews at once."""
    # Not `parse`: the demo removes its storage, so that no variable of the environment may name another one.
    return Settings.model_validate({
        "data": {**_DATA, "scale": _SCALE},
        "features": _FEATURES,
        "task": {"name": "lda", "penalty": 0.1, "levels": 127},  # as many steps as the encoder gives
        "policy": {"strategy": STRATEGY_OF_LEARNER[LEARNER_OF_TASK["lda"]]},  # no worker for updates is started
        "storage_url": str(folder / "sums"),
    })


def network_settings(folder: Path) -> Settings:
    """Return the configuration of the network, in shards and slices, so that a deletion retrains a part."""
    return Settings.model_validate({
        "data": {**_DATA, "standardize": True},
        "features": _FEATURES,
        "task": {"name": "mlp", "hidden": [64]},
        "sisa": {"shards": 4, "slices": 3, "epochs": 12, "batch_size": 32, "seed": 0},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "policy": {"calibrate": False},
        "storage_url": str(folder / "network"),
    })


def asked(settings: Settings, choose: Callable[[Sequence[Row]], Row]) -> Asked:
    """Return who asks to be forgotten.

    Args:
        settings: Of a system that learned the reviews.
        choose: Returns the person's row out of some.
    """
    train = pq.read_table(settings.data.train)
    person = choose(_short(train.slice(0, _CANDIDATES).to_pylist()))
    ids = train[settings.data.id].to_pylist()[:: round(1 / _BATCH_SHARE)]
    test = pq.read_table(settings.data.test or "").slice(0, _CANDIDATES).to_pylist()
    people = tuple(one for one in ids if one != person[settings.data.id])
    return Asked(person, people, tuple(_short(test)[:_OTHERS]))


def _short(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose review is read at a glance."""
    return [row for row in rows if _SHORT <= len(row["review"]) <= _LONG]
