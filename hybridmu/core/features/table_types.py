"""Types in which the feature columns of a table are read, for a system that is trained already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from hybridmu.core.features import image_values
from hybridmu.core.kernel.column_types import Kind, check_role, kept
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError

# Kind of an encoded column → kinds of columns that hold such values; 0 and 1 are truth values, as in JSON.
_TAKES: dict[str, tuple[Kind, ...]] = {
    "number": ("integer", "float"),
    "bool": ("bool", "integer", "float"),
    "list": ("list",),
    "category": ("text",),
    "hash": ("text",),
    "text": ("text",),
}


def types_to_read(
    columns: Sequence[Column],
    names: Collection[str],
    type_of: Callable[[str], pa.DataType],
    spelled: Collection[str] = (),
) -> dict[str, pa.DataType]:
    """Return column → the type to which its values are cast, each exactly.

    Args:
        columns: The feature columns of the system.
        names: Columns of the table.
        type_of: Returns a column's type.
        spelled: Columns that are texts, whatever they look like.

    Returns:
        A type for every feature column; one without any value has the type null.

    Raises:
        DataError: A column is missing, or can't hold what the system was trained on.
    """
    types: dict[str, pa.DataType] = {}
    for column in columns:
        name = column.name
        if name not in names:
            raise DataError(f"column {name!r} is missing", expected=", ".join(each.name for each in columns))
        found = type_of(name)
        if column.kind == image_values.KIND:
            image_values.check_type(name, found)
            types[name] = pa.string() if name in spelled else found
            continue
        if pa.types.is_null(found):  # has no value, which a fill may stand in for
            types[name] = found
            continue
        if name in spelled and "text" in _TAKES[column.kind]:
            types[name] = pa.string()
            continue
        if (kind := check_role(name, "feature", found)) not in _TAKES[column.kind]:
            raise DataError(
                f"column {name!r} has another type than in training",
                expected={"hash": "text", "category": "text", "list": "lists of numbers"}.get(column.kind, column.kind),
                got=str(found),
                remedy="cast the column",
            )
        width = column.width - (column.fill is not None)
        types[name] = pa.list_(found.value_type, width) if kind == "list" else kept(found)
    return types
