"""Tables whose values are in their rows alone: no dictionaries, no runs, no metadata that others left.

A dictionary is shared by all rows of a column, also by those that hold none of its values: rows that leave the table
would leave their values there. What the schema says besides names and types may quote values as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

# The type of the numbers that a column holds as bytes; the only metadata of a column that is kept.
LIST_OF = b"hybridmu.list_of"
_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)


def plain_schema(schema: pa.Schema, metadata: Mapping[bytes, bytes] | None = None) -> pa.Schema:
    """Return the schema of the same columns with plain types, and with no metadata but our own.

    Args:
        schema: Any.
        metadata: What the new schema carries.
    """
    return pa.schema([_plain_field(field) for field in schema], metadata=metadata)


def plain(table: pa.Table) -> pa.Table:
    """Return a table of the same rows in which every value stands in its row.

    Args:
        table: Dictionaries, runs and extension types may be in it at any depth.
    """
    schema = plain_schema(table.schema)
    if table.schema.equals(schema, check_metadata=True):
        return table
    columns = []
    for index, field in enumerate(schema):
        chunks = [_plain_array(chunk, field.type) for chunk in table.column(index).chunks]
        columns.append(pa.chunked_array(chunks, field.type))
    return pa.table(columns, schema=schema)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type of a column's values once each of them stands in its row."""
    if isinstance(type_, pa.BaseExtensionType):
        return plain_type(type_.storage_type)
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return plain_type(type_.value_type)
    if pa.types.is_struct(type_):
        return pa.struct([_plain_field(type_.field(i)) for i in range(type_.num_fields)])
    if pa.types.is_map(type_):
        key, item = _plain_field(type_.key_field), _plain_field(type_.item_field)
        return pa.map_(key, item, keys_sorted=type_.keys_sorted)
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_plain_field(type_.value_field), type_.list_size)
    for is_kind, kind in _LISTS:
        if is_kind(type_):
            return kind(_plain_field(type_.value_field))
    return type_


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, plain_type(field.type), field.nullable, metadata=_ours(field))


def _ours(field: pa.Field) -> dict[bytes, bytes] | None:
    """Return the metadata of a column that says of which numbers its bytes are, and nothing else."""
    kept = (field.metadata or {}).get(LIST_OF)
    if kept is None or not pa.types.is_fixed_size_binary(field.type):
        return None
    try:
        known = pa.type_for_alias(kept.decode())
    except ValueError:
        return None
    return {LIST_OF: kept} if pa.types.is_integer(known) or pa.types.is_floating(known) else None


def _plain_array(array: pa.Array, type_: pa.DataType) -> pa.Array:
    given = array.type
    if given.equals(type_, check_metadata=True):
        return array
    if isinstance(given, pa.BaseExtensionType):
        return _plain_array(array.storage, type_)
    if pa.types.is_dictionary(given):
        return _plain_array(array.dictionary, type_).take(array.indices)
    if pa.types.is_run_end_encoded(given):
        places = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(np.asarray(array.run_ends), places, side="right")
        return _plain_array(array.values, type_).take(pa.array(runs))
    if pa.types.is_struct(given):
        fields = [type_.field(i) for i in range(type_.num_fields)]
        parts = [_plain_array(array.field(i), field.type) for i, field in enumerate(fields)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=array.is_null()) if fields else array
    if not pa.types.is_nested(given):
        return array.cast(type_)
    if pa.types.is_map(given):
        entry = [pa.field("key", type_.key_type, nullable=False), type_.item_field]
        parts = [_plain_array(array.keys, type_.key_type), _plain_array(array.items, type_.item_type)]
        values = pa.StructArray.from_arrays(parts, fields=entry)
    else:
        values = _plain_array(array.values, type_.value_type)
    # The child's buffers start before a slice does: the list's own offset counts through them, so it stays.
    own = array.buffers()[: _OWN_BUFFERS.get(given.id, 2)]
    return pa.Array.from_buffers(type_, len(array), own, array.null_count, array.offset, [values])


# Validity alone, or with offsets, or with offsets and sizes: what a list has besides its values.
_OWN_BUFFERS = {
    pa.list_(pa.null(), 1).id: 1,
    pa.list_view(pa.null()).id: 3,
    pa.large_list_view(pa.null()).id: 3,
}
