"""Settings chosen by the rows of the table that a new system is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.config import Settings, completed
from hybridmu.config.left_out import OPEN
from hybridmu.core.features.derived import Derivation
from hybridmu.core.kernel.column_types import kind_of
from hybridmu.core.strategies import unavailable
from hybridmu.core.tasks.task_making import is_own
from hybridmu.kinds import LEARNER_OF_TASK
from hybridmu.planning.default_settings import OPTIMIZER, TableFacts, default_settings, recipe
from hybridmu.store.dataset.declarations import check_declarations, features_of, labels_in, with_lengths
from hybridmu.store.dataset.derived_table import open_source
from hybridmu.store.dataset.source_table import SourceTable

_MOST_COUNTED = 100_000  # owners; far more than all slices of a new system need


def chosen(settings: Settings, facts: TableFacts | None = None) -> Settings:
    """Return a configuration that says everything; what it left out suits the rows of its training table.

    Args:
        settings: The configuration; a built-in dataset is filled in.
        facts: Of the table; None: it is looked at.

    Raises:
        ConfigError: What it says and what is chosen contradict each other.
        DataError: The table can't be read.
    """
    said = said_of(settings)
    sums = settings.task.name in LEARNER_OF_TASK  # no optimizer has a say in them
    if sums or (not said["optimizer"] and not unavailable(settings.policy.strategy, OPTIMIZER)):
        facts = facts or facts_of(settings)
        settings = completed(settings, default_settings(facts, said, settings.serving.groups))
    else:
        settings = completed(settings, {"optimizer": recipe(said["optimizer"])})
    settings.refuse_too_many_groups()
    return settings


def inherited(settings: Settings, other: Settings) -> Settings:
    """Return the configuration of a successor; what it left out is as in the model before it.

    An optimizer is taken whole or not at all: half of each would be a recipe that nobody chose.

    Args:
        settings: The successor's configuration.
        other: The complete one of the model that it follows.

    Raises:
        ConfigError: What it says and what it inherits contradict each other.
    """
    known, said = other.model_dump(), said_of(settings)["optimizer"]
    if said:
        known["optimizer"] = recipe(said)
    found = completed(settings, known)
    found.refuse_too_many_groups()
    return found


def said_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return section → key → value of what a configuration says itself, of all that may be left out."""
    data, sisa, optimizer = settings.data, settings.sisa, settings.optimizer
    return {
        "data": data.model_dump(include=data.model_fields_set & {*OPEN["data"]}),
        "sisa": sisa.model_dump(include=sisa.model_fields_set & {*OPEN["sisa"]}),
        "optimizer": optimizer.model_dump(include=optimizer.model_fields_set),
        "task": settings.task.model_dump(),
    }


def facts_of(settings: Settings) -> TableFacts:
    """Return what is known of the training table; its group and its label are read, and nothing else of Parquet.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: The table can't be read, or lacks a column.
    """
    data = settings.data
    derivation = Derivation.of(settings.features, data.fills)
    table = open_source(data, derivation, data.train)
    check_declarations(data, table, derivation)
    owners = table.rows if data.group is None else _owners(table, data.group)
    kept = (1 - data.first_test_fraction) * (1 - data.validation_fraction)
    features = features_of(data, table, derivation)
    plain = [name for name in features if name not in derivation.names]
    sums = settings.task.name in LEARNER_OF_TASK
    lists = tuple(name for name in plain if kind_of(table.type_of(name)) == "list")
    return TableFacts(
        int(table.rows * kept),
        max(1, int(owners * kept)),
        0 if data.target is not None else len(data.classes or labels_in(table, data.label)),
        is_own(settings.task.name),
        features,
        lists,
        tuple(name for name in lists if pa.types.is_uint8(table.type_of(name).value_type)),
        _largest(with_lengths(data, table, plain), plain) if sums else {},
        _largest(table, data.targets) if sums else {},
    )


def clipped_columns(settings: Settings) -> list[str]:
    """Return a warning for every column of the training table that a closed-form task clips.

    Args:
        settings: The complete configuration.

    Raises:
        DataError: The table can't be read.
    """
    if settings.task.name not in LEARNER_OF_TASK:
        return []
    data = settings.data
    derivation = Derivation.of(settings.features, data.fills)
    table = open_source(data, derivation, data.train)
    plain = [name for name in features_of(data, table, derivation) if name not in derivation.names]
    reach = {
        name: size * abs(data.scale.get(name, 1.0))
        for name, size in _largest(with_lengths(data, table, plain), plain).items()
    }
    warnings = [
        f"column {name!r} reaches {size:.3g} after data.scale, and what is beyond 1 counts as 1: set its data.scale to"
        f" {data.scale.get(name, 1.0) / 2.0 ** math.ceil(math.log2(size)):.3g}, or leave data.scale out"
        for name, size in reach.items()
        if size > 1 + 1e-6  # bytes are scaled by 1/255, which is rounded
    ]
    scales = settings.task.options.get("target_scale", 1.0)
    for target, largest in _largest(table, data.targets).items():
        scale = float(scales[target] if isinstance(scales, Mapping) else scales)
        if (size := largest * scale) > 1 + 1e-6:
            warnings.append(
                f"the target {target!r} reaches {size:.3g} after task.target_scale, and what is beyond 1 counts as"
                f" 1: set task.target_scale{f'.{target}' if len(data.targets) > 1 else ''} to"
                f" {scale / 2.0 ** math.ceil(math.log2(size)):.3g}, or leave it out"
            )
    return warnings


def _largest(table: SourceTable, features: Sequence[str]) -> dict[str, float]:
    """Return column → the largest finite magnitude, of numbers and of lists of them."""
    found = {name: 0.0 for name in features if kind_of(table.type_of(name)) in {"integer", "float", "list"}}
    for batch in table.batches([*found]) if found else ():
        for name in found:
            column = batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            values = pc.list_flatten(column) if kind_of(column.type) == "list" else column
            numbers = np.abs(values.drop_null().cast(pa.float64(), safe=False).to_numpy())
            found[name] = max(found[name], float(numbers[np.isfinite(numbers)].max(initial=0.0)))
    return found


def _owners(table: SourceTable, group: str) -> int:
    """Return how many values a group column has, each once, and rows without one; or more than matters."""
    seen: set[object] = set()
    alone = 0
    for batch in table.batches([group]):
        column = batch.column(0)
        alone += column.null_count
        seen.update(pc.unique(column.drop_null()).to_pylist())
        if len(seen) + alone > _MOST_COUNTED:
            break
    return len(seen) + alone
