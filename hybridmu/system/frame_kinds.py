"""Kinds of frames, told without importing their packages."""

from __future__ import annotations

import pyarrow as pa

_STREAM = "__arrow_c_stream__"  # Arrow's own protocol, the PyCapsule interface


def is_frame(value: object) -> bool:
    """Return whether a value is a frame of rows, and not a list of them."""
    return isinstance(value, (pa.RecordBatch, pa.RecordBatchReader)) or hasattr(value, _STREAM) or is_pandas(value)


def is_pandas(value: object) -> bool:
    """Return whether a value is a DataFrame of pandas."""
    return package_of(value) == "pandas" and hasattr(value, "columns") and hasattr(value, "index")


def package_of(value: object) -> str:
    """Return the name of the package that a value's class is of."""
    return type(value).__module__.partition(".")[0]
