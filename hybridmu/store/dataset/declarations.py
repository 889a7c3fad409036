"""Checks of the declared columns against the training table, once, before the first read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from hybridmu.config import DataSettings
from hybridmu.core.features.derived import Derivation
from hybridmu.core.kernel.column_types import Kind, check_role, kind_of
from hybridmu.core.kernel.table_encoder import Scalar, label_set
from hybridmu.core.targets import check_target
from hybridmu.errors import ConfigError, DataError
from hybridmu.store.dataset.source_table import SourceTable

EVERY = "*"  # in data.fills: every column that may be null and has no fill of its own
# Which kinds of columns each declaration is for.
_FOR: Mapping[str, Collection[Kind]] = {
    "categories": {"text"},
    "hash_buckets": {"text"},
    "scale": {"integer", "float", "list"},
    "lists": {"list"},
}
_MEANT = {"categories": "text", "hash_buckets": "text", "scale": "numbers or lists of numbers", "lists": "lists"}


def features_of(data: DataSettings, table: SourceTable, derivation: Derivation) -> tuple[str, ...]:
    """Return the names of the feature columns: as declared, or all but id, group, outcome and an index of pandas.

    Args:
        data: What is declared.
        table: The training table, with its derived columns.
        derivation: These come last; what they are made of is no feature itself.
    """
    taken = {data.id, data.group, *data.outcomes, *table.columns.index, *derivation.sources, *derivation.names}
    if data.features is not None:
        taken = {*derivation.sources, *derivation.names}
    names = table.names if data.features is None else data.features
    return (*(name for name in names if name not in taken), *derivation.names)


def labels_in(table: SourceTable, label: str) -> set[int | str]:
    """Return the classes that a label column holds; all of it is read.

    Raises:
        DataError: A value can't be a class.
    """
    seen: set[int | str] = set()
    for batch in table.batches([label]):
        seen |= label_set(batch.column(0), label)
    return seen


def as_declared(data: DataSettings, table: SourceTable) -> SourceTable:
    """Return the training table with spelled values as text where only text would fit: they can't be cast.

    These are columns that are declared to be text, and keys that are neither integers nor without a value.
    """
    text = {*data.categories, *data.hash_buckets}
    if data.classes and isinstance(data.classes[0], str):
        text.add(data.label)
    found = table.columns.types
    keys = {name for name in (data.id, data.group) if name in table.spelled and name in found}
    text |= {name for name in keys if not pa.types.is_integer(found[name]) and not pa.types.is_null(found[name])}
    return table.with_types(dict.fromkeys(text & table.spelled, pa.string()))


def fills_of(data: DataSettings, table: SourceTable, names: Sequence[str]) -> dict[str, Scalar]:
    """Return column → stand-in for null, with `*` spelled out.

    A number of `*` is for numbers, lists and truth values (0 or 1), a text for text; columns that no file lets be null
    need none. What columns hold has no say: rows that are forgotten later would shape the encoding.

    Args:
        data: The configuration.
        table: The training table.
        names: The feature columns.

    Returns:
        The fills that are declared, each for a column.
    """
    every = data.fills.get(EVERY)
    own = {name: fill for name, fill in data.fills.items() if name != EVERY}
    if every is None:
        return own
    found: dict[str, Scalar] = {}
    for name in names:
        kind = None if name in own or name in table.columns.required else kind_of(table.type_of(name))
        if kind is not None and (kind == "text") == isinstance(every, str):
            found[name] = bool(every) if kind == "bool" and every in {0, 1} else every
    return found | own


def left_out(data: DataSettings, table: SourceTable) -> list[str]:
    """Return a warning where an index of pandas with a name of its own is no column that is read."""
    if data.features is not None:
        return []
    names = [name for name in table.columns.named_index if name not in {data.id, data.group, *data.outcomes}]
    if not names:
        return []
    return [
        f"an index of pandas is no feature: {', '.join(map(repr, names))} of {table.url} was left out. If it is one, "
        "write the table with df.reset_index(), and train it under another storage_url"
    ]


def check_declarations(data: DataSettings, table: SourceTable, derivation: Derivation) -> None:
    """Check roles, classes and what is declared of features.

    Args:
        data: The configuration.
        table: The training table.
        derivation: Its derived columns.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: It does not fit the table.
    """
    features = features_of(data, table, derivation)
    given = ", ".join(name for name in table.names if name not in derivation.names)
    _check_roles(data, (*features, *derivation.sources))
    _check_classes(data)
    if not features:
        raise DataError(
            "the table has no feature column",
            expected="at least one besides id, group and label",
            got=given or "no columns",
            remedy="add features to the table",
        )
    outcome = "label" if data.target is None else "target"
    for what in ("fills", "categories", "hash_buckets", "scale", "lists"):
        if named := sorted({*getattr(data, what)} & {*derivation.names}):
            raise DataError(
                f"data.{what} names {named[0]!r}, which an encoder makes",
                expected="declarations of columns that the table has itself",
                remedy=f"take it out of data.{what}",
            )
    for role, name in (("id", data.id), ("group", data.group), *((outcome, name) for name in data.outcomes)):
        if name is not None and name not in table.names:
            raise DataError(
                f"data.{role} names a column that is not in the table",
                expected=given,
                got=name,
                remedy=table.remedy([name], "correct the name, or add the column"),
            )
    check_role(data.id, "id", table.type_of(data.id))
    if data.target is None:
        check_role(data.label, "label", table.type_of(data.label))
    else:
        for target in data.targets:
            check_target(target, table.type_of(target))
    kinds: dict[str, Kind] = {}
    for name in features:
        if name not in table.names:
            raise DataError(
                f"feature column {name!r} is missing",
                got=given,
                remedy=table.remedy([name], "correct data.features, or add the column"),
            )
        if not name:
            raise DataError(
                "a feature column has no name", remedy="name it, or leave it out of data.features; often it is an index"
            )
        kinds[name] = check_role(name, "feature", table.type_of(name))
    _check_declared(data, kinds)
    for name, factor in data.scale.items():
        if name in kinds and factor and not _keeps_numbers(table, name, kinds[name], factor):
            raise DataError(
                f"data.scale makes every value of column {name!r} zero in float32",
                expected="a factor that leaves magnitudes of about 1",
                got=f"{factor:g}",
                remedy="correct the factor, or leave the column out of data.features",
            )


def _check_roles(data: DataSettings, features: Sequence[str]) -> None:
    """Check that no column is two things.

    Raises:
        ConfigError: One is.
    """
    outcome = "data.label" if data.target is None else "data.target"
    roles = [("data.id", data.id), *((outcome, name) for name in data.outcomes), ("data.group", data.group)]
    named = [(role, name) for role, name in roles if name is not None]
    for number, (role, name) in enumerate(named):
        for other, same in named[:number]:
            if name == same:
                raise ConfigError(
                    f"{other} and {role} name the same column",
                    expected="a column for each",
                    got=name,
                    remedy="leave data.group out where every row is somebody else's"
                    if "data.group" in {role, other}
                    else "name the column that holds it",
                )
        if name in features:
            raise ConfigError(
                f"data.features names the column of {role}",
                expected="columns that a row to be predicted has, too",
                got=name,
                remedy="take it out of data.features",
            )


def _check_classes(data: DataSettings) -> None:
    """Check that the declared classes are of one type that can be stored.

    Raises:
        ConfigError: They are not.
    """
    classes = data.classes
    if classes is None:
        return
    remedy = "correct data.classes, or leave it out: classes are then read off the training table, once"
    if len({isinstance(value, str) for value in classes}) > 1:
        raise ConfigError(
            "data.classes mixes numbers and text", expected="one type", got=str(list(classes)), remedy=remedy
        )
    if wide := [value for value in classes if isinstance(value, int) and value not in range(-(2**63), 2**63)]:
        raise ConfigError(
            f"the class {wide[0]} needs more than 63 bits", expected="shorter integers, or strings", remedy=remedy
        )


def _check_declared(data: DataSettings, kinds: Mapping[str, Kind]) -> None:
    """Check that every declaration is for a feature of its kind.

    Raises:
        DataError: One is not.
    """
    if unknown := sorted(set(data.lists) - set(kinds)):
        raise DataError(
            f"data.lists names columns that are not features: {unknown}", expected=f"some of {list(kinds)[:20]}"
        )
    for what, fit in _FOR.items():
        for name, value in getattr(data, what).items():
            if name in kinds and kinds[name] not in fit:
                raise DataError(
                    f"data.{what} does not fit column {name!r}",
                    expected=f"a column of {_MEANT[what]}",
                    got=f"a column of kind {kinds[name]}",
                    remedy=f"take it out of data.{what}, or cast the column",
                )
            if what == "scale" and not value:
                raise DataError(
                    f"data.scale makes every value of column {name!r} zero",
                    expected="a factor other than 0",
                    remedy="leave the column out of data.features",
                )
    if both := sorted(set(data.categories) & set(data.hash_buckets)):
        raise DataError(
            f"column {both[0]!r} has both data.categories and data.hash_buckets",
            expected="one of them",
            remedy="take it out of data.hash_buckets",
        )


def _keeps_numbers(table: SourceTable, name: str, kind: Kind, factor: float) -> bool:
    """Return whether not every number of a column is zero after its scale.

    Lists are scaled in float32, and other numbers in double precision: 1e-60 is of use where all are that large.
    """
    with np.errstate(over="ignore", under="ignore"):
        single = abs(np.float32(factor))
        if kind == "list" or single >= np.finfo(np.float32).tiny:
            return bool(single)
        some = False
        for batch in table.batches([name]):
            values = batch.column(0).cast(pa.float64(), safe=False).drop_null().to_numpy()
            if (values * factor).astype(np.float32).any():
                return True
            some = some or bool(values.any())
        return not some


def with_lengths(data: DataSettings, train: SourceTable, names: Sequence[str]) -> SourceTable:
    """Return a table whose lists all have a length: that of their type, the declared one, or that of the first row.

    Args:
        data: What is declared.
        train: The training table.
        names: Feature columns.

    Raises:
        DataError: The declared length is not that of the type.
    """
    found = _lengths(data, train, names)
    return train.with_types({name: pa.list_(kind, length) for name, kind, length in found})


def _lengths(data: DataSettings, train: SourceTable, names: Sequence[str]) -> Iterator[tuple[str, pa.DataType, int]]:
    """Yield (feature, type of its numbers, length) of each whose lists have no length of their own.

    Raises:
        DataError: The declared length is not that of the type.
    """
    for name in names:
        type_ = train.type_of(name)
        declared = data.lists.get(name)
        if pa.types.is_fixed_size_list(type_) and declared not in {None, type_.list_size}:
            expected = f"{type_.list_size}, the length of its type"
            raise DataError(f"data.lists does not fit column {name!r}", expected=expected, got=str(declared))
        if pa.types.is_list(type_):
            first = train.first_value(name) if declared is None else None
            length = len(first) if first is not None else declared or 0
            if length:
                yield name, type_.value_type, length
