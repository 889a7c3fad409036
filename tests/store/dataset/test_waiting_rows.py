"""Copies of rows that wait to come in: lists are bytes in them, and lists again where they are read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridmu.store.dataset.list_packing import packed, unpacked
from hybridmu.store.dataset.source_table import open_copy
from hybridmu.store.storage.parquet import TableWriter, seal_footer
from hybridmu.store.storage.storage import Storage
from tests import support


def lists(rows: int = 7) -> pa.Table:
    numbers = np.arange(rows * 3, dtype=np.int8)
    features = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 3)
    return pa.table({"id": range(rows), "=_id": [f"r{n}" for n in range(rows)], "note:own": features})


@pytest.mark.parametrize("as_bytes", [True, False], ids=["this release", "an earlier one"])
def test_lists_of_a_copy_are_lists_where_it_is_read(tmp_path, as_bytes):
    table = lists()
    kept = packed(table) if as_bytes else table
    storage = Storage(str(tmp_path))
    with TableWriter(tmp_path / "copy.parquet", kept.schema) as writer:
        for start in (0, 4):
            writer.write(kept.slice(start, 4))
    seal_footer(tmp_path / "copy.parquet")
    copy = open_copy(storage, "copy.parquet")
    assert copy.type_of("note:own") == pa.list_(pa.int8(), 3)
    assert copy.names == ["id", "_id", "note:own"]
    found = pa.concat_tables(copy.batches(["note:own", "id"]))
    assert found.to_pydict() == {"note:own": table["note:own"].to_pylist(), "id": table["id"].to_pylist()}
    assert len(next(iter(copy.batches(["id"])))) == 4


def test_what_waits_holds_lists_as_bytes(tmp_path):
    support.make_table(tmp_path / "train.parquet", 60, features=3)
    rows = pq.read_table(tmp_path / "train.parquet")
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(60 * 4, dtype=np.uint8)), 4)
    pq.write_table(rows.append_column("pixels", pixels), tmp_path / "train.parquet")
    with support.local_system(tmp_path, sisa={"shards": 1, "slices": 1}) as system:
        system.train()
        more = pq.read_table(tmp_path / "train.parquet").slice(0, 5)
        more = support.replaced(more, "id", pa.array(range(900, 905), more.schema.field("id").type))
        pq.write_table(more, tmp_path / "more.parquet")
        system.ingest(str(tmp_path / "more.parquet"))
        [name] = [info.name for info in system.site.storage.list("incoming")]
        waiting = pq.read_table(tmp_path / "storage" / name)
        assert pa.types.is_fixed_size_binary(waiting.schema.field("pixels").type)
        assert unpacked(waiting)["pixels"].to_pylist() == more["pixels"].to_pylist()
        system.run(until_idle=True)
        system.session.refresh()
        tables = [system.site.lake.shard("train", shard) for shard in range(system.settings.sisa.shards)]
        assert sum(len(table.outline) for table in tables) == 65
