"""The columns of a table, each encoded as it is declared.

The arithmetic is the kernel's; every column fills tensor columns of its own.
"""

from __future__ import annotations

from collections.abc import Collection

from hybridmu.core.features.feature_source import FeatureSource, RowTransform, TableTransform
from hybridmu.core.features.table_rows import RowEncoder
from hybridmu.core.kernel.table_encoder import Encoder, Encoding


class Columns(FeatureSource):
    """Numbers, categories, hashed texts and lists, by the table encoder."""

    name = "columns"

    def width(self, schema: Encoder) -> int:
        """Return the width of the encoded matrix."""
        return schema.features

    def of_tables(self, schema: Encoder) -> TableTransform:
        """Return the encoding of tables; texts that were hashed once are known until its end."""
        return Encoding(schema).encode

    def of_rows(self, schema: Encoder, whole: Collection[str]) -> RowTransform:
        """Return the encoding of rows."""
        return RowEncoder(schema, whole).encode
