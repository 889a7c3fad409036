"""Source tables for tests, and what reading them gives."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hybridmu.errors import ConfigError, DataError
from hybridmu.store.dataset.source_table import open_table
from tests.support import open_lake


def rows_of(url, columns=("id",)) -> list[dict]:
    return [row for batch in open_table(str(url)).batches(list(columns)) for row in batch.to_pylist()]


def refused(folder, **data) -> str:
    """Return why a first read is refused, after making sure that nothing was written."""
    with pytest.raises((ConfigError, DataError)) as error:
        open_lake(folder, data=data)
    assert [path for path in (folder / "storage").rglob("*") if path.is_file()] == []
    return str(error.value)


INT8, INT64, UINT64 = pa.int8(), pa.int64(), pa.uint64()
