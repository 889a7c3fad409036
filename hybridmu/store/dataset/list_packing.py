"""Lists of numbers as bytes: the lake keeps a fixed-size list as one fixed-size binary value.

Parquet stores a list one number at a time, each with its nesting level: reading 784 small integers a row costs twelve
times what reading 784 bytes does. The type of the numbers is kept in the column's metadata.
"""

from __future__ import annotations

import pyarrow as pa

from hybridmu.store.storage.plain_tables import LIST_OF

_BYTES = pa.binary(1).id


def packed(table: pa.Table) -> pa.Table:
    """Return a table whose fixed-size lists of numbers are bytes; no value is copied.

    Args:
        table: No list has a null inside.
    """
    fields, columns, changed = list(table.schema), table.columns, False
    for index, field in enumerate(fields):
        if _packable(field.type):
            chunks = [_pack(chunk) for chunk in columns[index].chunks]
            made = pa.field(field.name, _bytes_of(field.type), metadata={LIST_OF: str(field.type.value_type)})
            fields[index], columns[index], changed = made, pa.chunked_array(chunks, made.type), True
    return pa.table(columns, schema=pa.schema(fields, table.schema.metadata)) if changed else table


def unpacked(table: pa.Table) -> pa.Table:
    """Return the table that `packed` was given; no value is copied."""
    packed_ones = [index for index, type_ in enumerate(table.schema.types) if type_.id == _BYTES]
    if not packed_ones:  # a table of thousands of numbers has nothing to look at
        return table
    fields, columns = list(table.schema), table.columns
    for index in packed_ones:
        made = unpacked_field(fields[index])
        if made is not fields[index]:
            chunks = [_unpack(chunk, made.type) for chunk in columns[index].chunks]
            fields[index], columns[index] = made, pa.chunked_array(chunks, made.type)
    return pa.table(columns, schema=pa.schema(fields, table.schema.metadata))


def unpacked_field(field: pa.Field) -> pa.Field:
    """Return the field of a column before it was packed."""
    numbers = (field.metadata or {}).get(LIST_OF)
    if numbers is None:
        return field
    type_ = pa.type_for_alias(numbers.decode())
    return pa.field(field.name, pa.list_(type_, field.type.byte_width // (type_.bit_width // 8)))


def _packable(type_: pa.DataType) -> bool:
    if not pa.types.is_fixed_size_list(type_) or not type_.list_size:
        return False
    return bool(pa.types.is_integer(type_.value_type) or pa.types.is_floating(type_.value_type))


def _bytes_of(type_: pa.DataType) -> pa.DataType:
    return pa.binary(type_.list_size * type_.value_type.bit_width // 8)


def _pack(lists: pa.Array) -> pa.Array:
    # The buffers start before a slice does: its offset counts lists here and bytes there, so both keep it.
    valid, numbers = lists.buffers()[0], lists.values
    data = numbers.buffers()[1]
    if numbers.offset:
        width = numbers.type.bit_width // 8
        data = data.slice(numbers.offset * width)
    return pa.Array.from_buffers(_bytes_of(lists.type), len(lists), [valid, data], lists.null_count, lists.offset)


def _unpack(values: pa.Array, type_: pa.DataType) -> pa.Array:
    valid, data = values.buffers()
    length = (values.offset + len(values)) * type_.list_size
    numbers = pa.Array.from_buffers(type_.value_type, length, [None, data])
    return pa.Array.from_buffers(type_, len(values), [valid], values.null_count, values.offset, [numbers])
