"""Warnings about features of the training table that are hardly meant as such."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.store.dataset.source_table import SourceTable

# Of fewer texts nobody can say whether they repeat; of more than this share that differ most belong to one row each.
_FEWEST, _SHARE = 30, 0.5


def nearly_unique(encoder: Encoder, rows: pa.Table) -> list[str]:
    """Return a warning for each text feature whose values hardly repeat: a name or an address, not a category.

    Args:
        encoder: Names the features.
        rows: Some rows of the training table.
    """
    found = []
    for column in encoder.columns:
        if column.kind != "hash":
            continue
        texts = rows.column(column.name).drop_null()
        distinct = pc.count_distinct(texts).as_py()
        if len(texts) >= _FEWEST and distinct > _SHARE * len(texts):
            found.append(
                f"column {column.name!r} is a feature, and {distinct:,} of its first {len(texts):,} texts differ: "
                "a name or an address makes personal data an input of the model, and is nothing to learn from. Unless "
                "it is meant, leave it out of data.features, under another storage_url"
            )
    return found


def read_as_text(train: SourceTable, encoder: Encoder) -> list[str]:
    """Return a warning for each feature of a CSV file that is text because of a few values among numbers.

    Args:
        train: The training table.
        encoder: Names the features.
    """
    spelled = train.columns.spelled
    doubtful = [column.name for column in encoder.columns if column.kind == "hash" and column.name in spelled]
    return [
        f"column {name!r} is read as text: {strays:,} of its {spelled[name].values:,} values are no plain numbers "
        "(as 7, -0.5 or 1e3). If they are slips, mend them, and train under another storage_url"
        for name in doubtful
        if (strays := spelled[name].strays)
    ]
