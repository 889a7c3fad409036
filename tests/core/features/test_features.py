"""Feature sources: what they make is what they say, and in its place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hybridmu.core import features
from hybridmu.core.features import opened
from hybridmu.core.features.columns import Columns
from hybridmu.core.kernel.table_encoder import Column, Encoder
from hybridmu.errors import DataError

SCHEMA = Encoder((Column("a", "number", 2, fill=3.0), Column("b", "list", 2)), "label", ("no", "yes"))
TABLE = pa.table({"a": [1.5, None, 2.0], "b": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2))})


def test_the_default_source_is_the_table_encoder():
    source = features.get()
    assert source.name == "columns"
    assert source.width(SCHEMA) == SCHEMA.features == 4
    assert opened(source, SCHEMA)(TABLE).tobytes() == SCHEMA.encode(TABLE).tobytes()
    assert source.of_rows(SCHEMA, ())(TABLE.to_pylist()).tobytes() == SCHEMA.encode(TABLE).tobytes()


class Other(Columns):
    """Makes arrays of its own, of another shape or type perhaps."""

    def __init__(self, change) -> None:
        self.change = change

    def of_tables(self, schema):
        return lambda table, out=None: self.change(schema.encode(table))


def test_what_is_made_elsewhere_comes_to_its_place():
    out = np.full((3, 4), 9, dtype=np.float32)
    opened(Other(lambda x: x + 1), SCHEMA)(TABLE, out)
    assert np.array_equal(out, SCHEMA.encode(TABLE) + 1)


@pytest.mark.parametrize("change", [lambda x: x[:, :3], lambda x: x[1:], lambda x: x[:1], lambda x: x.astype(float)])
def test_another_shape_or_type_is_refused(change):
    out = np.full((3, 4), 9, dtype=np.float32)
    with pytest.raises(DataError, match=r"float32 \[3, 4\]"):
        opened(Other(change), SCHEMA)(TABLE, out)
    assert (out == 9).all()
