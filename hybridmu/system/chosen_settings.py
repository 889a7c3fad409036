"""Settings chosen by the rows of the table that a new system is trained on."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.config import Settings, completed, left_out
from hybridmu.core.tasks.registry import is_own
from hybridmu.errors import ConfigError
from hybridmu.planning.default_settings import TableFacts, default_settings
from hybridmu.store.dataset.declarations import as_declared, features_of
from hybridmu.store.dataset.source_table import SourceTable, open_table


def chosen(settings: Settings) -> Settings:
    """Return a configuration that says everything; what it left out suits the rows of its training table.

    Args:
        settings: The configuration; a built-in dataset is filled in.

    Raises:
        ConfigError: What it says and what is chosen contradict each other.
        DataError: The table can't be read.
    """
    if not left_out(settings):
        return settings
    said = {
        name: getattr(settings, name).model_dump(include=getattr(settings, name).model_fields_set)
        for name in ("data", "sisa", "optimizer")
    }
    said["data"] = {key: value for key, value in said["data"].items() if key in {"standardize", "scale"}}
    said["task"] = settings.task.model_dump()
    found = completed(settings, default_settings(facts_of(settings), said, settings.serving.groups))
    try:
        found.refuse_too_many_groups()
    except ValueError as error:
        raise ConfigError("the configuration is not valid", got=str(error)) from None
    return found


def facts_of(settings: Settings) -> TableFacts:
    """Return what is known of the training table; its group column is read, and nothing else of Parquet."""
    data = settings.data
    table = as_declared(data, open_table(data.train))
    owners = table.rows if data.group is None else _owners(table, data.group)
    kept = (1 - data.first_test_fraction) * (1 - data.validation_fraction)
    pixels = tuple(name for name in features_of(data, table) if _holds_bytes(table.type_of(name)))
    return TableFacts(
        int(table.rows * kept),
        max(1, int(owners * kept)),
        data.target is not None,
        is_own(settings.task.name),
        pixels,
    )


def _holds_bytes(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_) or pa.types.is_large_list(type_)
    return bool(is_list and pa.types.is_uint8(type_.value_type))


def _owners(table: SourceTable, group: str) -> int:
    """Return how many values a group column has, each once, and rows without one."""
    seen: set[object] = set()
    alone = 0
    for batch in table.batches([group]):
        column = batch.column(0)
        alone += column.null_count
        seen.update(pc.unique(column.drop_null()).to_pylist())
    return len(seen) + alone
