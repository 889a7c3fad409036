"""Settings of a training that suit the rows of a table, for what a configuration leaves out. Pure.

The numbers are those that won over a suite of tables (docs/log.md, docs/quality.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridmu.kinds import ENCODER_OF_TASK, LEARNER_OF_TASK

# Sub-models of fewer rows, or of fewer rows of each class, cost a point of accuracy and more; more shards than this
# make every answer dearer, and are for those who have measured that they pay.
_ROWS_PER_SHARD, _ROWS_PER_CLASS = 2_500, 250
_MOST_SHARDS = 8
# They cost AdamW no accuracy, and spare a third of a deletion's work; more spare hardly more.
_SLICES = 4
# (rows of a shard at most, epochs where classes are learned, where numbers are, batch size): small tables need many
# small steps, large ones are learned after fewer epochs, and classes are sooner learned by heart than numbers.
_SCHEDULES: tuple[tuple[float, int, int, int], ...] = (
    (250, 100, 100, 8),
    (3_000, 40, 40, 32),
    (6_000, 20, 40, 32),
    (20_000, 20, 20, 64),
    (math.inf, 10, 10, 128),
)
# So many classes are not sooner learned by heart: twice the epochs, where large shards have few.
_MANY_CLASSES, _LARGE = 10, 3_000
# Networks of ours for pictures learn little from few of them: rows of a shard, epochs and batch size.
_PICTURES = frozenset({"resnet"})
_PICTURES_PER_SHARD, _EPOCHS_OF_PICTURES, _BATCH_OF_PICTURES = 12_500, 40, 64
# Hidden layers for fewer rows than these, and for more: where numbers are learned, or classes of lists (pictures and
# signals, which are wide) or of tables.
_FEW_ROWS = 1_000
_FEW, _NUMBERS, _LISTS, _TABLES = (128,), (128, 128), (256,), (256, 128)
# Rows of a shard where sums are learned: they are counted in seconds.
_ROWS_OF_SUMS = 500_000
# Sums have no use for slices, but of a deletion the rows of one slice are hashed again: so many take some milliseconds.
_ROWS_PER_HASH, _MOST_HASHED = 8_192, 256
# Adapters have little to learn by heart, and every visit passes a transformer.
_EPOCHS_OF_ADAPTERS, _BATCH_OF_ADAPTERS = 5, 16
# Tasks of ours with layers of any width.
_LAYERED = frozenset({"mlp"})
OPTIMIZER = "adamw"
_RECIPE: Mapping[str, Any] = {
    "name": OPTIMIZER,
    "lr": 0.004,
    "momentum": 0.0,
    "weight_decay": 0.01,
    "schedule": "linear",
}
_RECIPE_OF_PICTURES: Mapping[str, Any] = {"lr": 0.002, "weight_decay": 0.05}
_RECIPE_OF_ADAPTERS: Mapping[str, Any] = {"lr": 0.003, "weight_decay": 0.0}  # factors of 1 are no weights to shrink


@dataclass(frozen=True)
class TableFacts:
    """What is known of a training table before it is read in.

    Attributes:
        rows: Training rows, without those that are held out.
        owners: To whom they belong: values of the group column, and rows without one; the rows where there is none.
        classes: How many classes are learned; 0: numbers.
        own: Whether the model is one of ours; the user's own gets its columns as they are.
        features: Feature columns.
        lists: Those among them that are lists.
        pixels: Those among these that are lists of bytes.
        largest: Column of numbers, or of lists of them → the largest magnitude; of a closed-form task alone.
        largest_targets: The same of the targets, of a closed-form task.
    """

    rows: int
    owners: int
    classes: int = 2
    own: bool = True
    features: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    largest: Mapping[str, float] = field(default_factory=dict)
    largest_targets: Mapping[str, float] = field(default_factory=dict)


def default_settings(
    facts: TableFacts, said: Mapping[str, Mapping[str, Any]], groups: int = 1
) -> dict[str, dict[str, Any]]:
    """Return values for all that a configuration may leave out.

    Args:
        facts: Of the table.
        said: Section → key → value that the configuration has itself; the others are chosen to go with them. It has no
            optimizer, or it would say how it trains.
        groups: Serving groups, each of which needs a sub-model.

    Returns:
        Section → key → value; what is said is among them as it was said.

    Example:
        >>> default_settings(TableFacts(rows=12_000, owners=12_000), {"task": {"name": "mlp"}})["sisa"]
        {'shards': 4, 'slices': 4, 'epochs': 40, 'batch_size': 32}
    """
    sisa, task = said.get("sisa", {}), said.get("task", {})
    if task.get("name") in LEARNER_OF_TASK:
        return _of_sums(facts, said, groups)
    room = _cells(facts.owners)
    network, adapts = task.get("name") in _PICTURES, task.get("name") in ENCODER_OF_TASK
    least = _PICTURES_PER_SHARD if network else max(_ROWS_PER_SHARD, _ROWS_PER_CLASS * facts.classes)
    shards = sisa.get("shards") or max(groups, min(facts.rows // least, _MOST_SHARDS, room), 1)
    slices = sisa.get("slices") or max(1, min(_SLICES, room // shards))
    rows = max(1, facts.rows // shards)
    schedule = _schedule(rows, facts.classes)
    if network:
        schedule = {"epochs": _EPOCHS_OF_PICTURES, "batch_size": _BATCH_OF_PICTURES}
    elif adapts:
        schedule = {"epochs": _EPOCHS_OF_ADAPTERS, "batch_size": _BATCH_OF_ADAPTERS}
    chosen = {"shards": shards, "slices": slices, **schedule}
    # Of bytes the range is known; a deviation fitted on a pixel that is nearly always black would blow the others up.
    # But one factor for all columns of a table with others too is not ours to choose: they are standardised.
    pictures = facts.own and facts.pixels and set(facts.pixels) == set(facts.features)
    scale = said.get("data", {}).get("scale", dict.fromkeys(facts.pixels, 1 / 255) if pictures else {})
    scaled = bool(scale) and set(facts.features) <= scale.keys()
    return {
        "data": {"standardize": facts.own and not (scaled or adapts), "scale": scale, **said.get("data", {})},
        "task": {**({"hidden": list(_hidden(rows, facts))} if task.get("name") in _LAYERED else {}), **task},
        "sisa": {**chosen, **sisa},
        "optimizer": {
            **_RECIPE,
            **(_RECIPE_OF_PICTURES if network else {}),
            **(_RECIPE_OF_ADAPTERS if adapts else {}),
        },
    }


def _of_sums(facts: TableFacts, said: Mapping[str, Mapping[str, Any]], groups: int) -> dict[str, dict[str, Any]]:
    """Return the same where sums over rows are learned: slices cost nothing, and more shards gain little.

    Columns and targets are brought to −1..1, by powers of two: they say of the largest number how many digits it has,
    and no more.
    """
    scale = {name: 1 / 255 if name in facts.pixels else 2.0 ** -_digits(size) for name, size in facts.largest.items()}
    of_targets = {name: 2.0 ** -_digits(size) for name, size in facts.largest_targets.items()}
    one = next(iter(of_targets.values()), 1.0)
    shards = max(groups, min(facts.rows // _ROWS_OF_SUMS, _MOST_SHARDS), 1)
    shards = said.get("sisa", {}).get("shards") or shards
    slices = max(1, min(facts.rows // shards // _ROWS_PER_HASH, _cells(facts.owners) // shards, _MOST_HASHED))
    return {
        "data": {"standardize": False, "scale": scale, **said.get("data", {})},
        "task": {
            **({} if facts.classes else {"target_scale": of_targets if len(of_targets) > 1 else one}),
            **said.get("task", {}),
        },
        "sisa": {"shards": shards, "slices": slices, "epochs": 1, "batch_size": 1, **said.get("sisa", {})},
        "optimizer": dict(_RECIPE),
    }


def _digits(size: float) -> int:
    """Return the exponent of the least power of two that is not below a magnitude, −126 to 128; 0 for 0."""
    return min(128, max(-126, math.ceil(math.log2(size)))) if size > 0 else 0


def recipe(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an optimizer that a configuration names leaves out, where it is not the former value.

    Args:
        said: Key → value of the section.

    Example:
        >>> recipe({"name": "adamw"}), recipe({"momentum": 0.9})
        ({'lr': 0.004}, {})
    """
    return {"lr": _RECIPE["lr"]} if said.get("name") == OPTIMIZER else {}


def _cells(owners: int) -> int:
    """Return how many slices so many people fill, all of them with 99 % probability.

    With n people in c cells, each is empty with probability about exp(−n/c); c·exp(−n/c) ≤ 1/100 is asked for.
    """
    cells = max(1, owners)
    while cells > 1 and cells * math.exp(-owners / cells) > 0.01:
        cells = int(cells * 0.9)
    return max(1, cells)


def _schedule(rows: int, classes: int) -> dict[str, int]:
    """Return epochs and batch size for a shard of so many rows."""
    _, for_classes, for_numbers, batch_size = next(found for found in _SCHEDULES if rows <= found[0])
    times = 2 if classes > _MANY_CLASSES and rows > _LARGE else 1
    return {"epochs": times * for_classes if classes else for_numbers, "batch_size": batch_size}


def _hidden(rows: int, facts: TableFacts) -> tuple[int, ...]:
    """Return the widths of the hidden layers for a shard of so many rows."""
    if rows <= _FEW_ROWS:
        return _FEW
    if not facts.classes:
        return _NUMBERS
    return _LISTS if facts.lists else _TABLES
