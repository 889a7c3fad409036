"""Reading a shard in parts: the rows asked for and no others, whatever the row groups; damage is never passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.kernel.partition import digest
from hybridmu.errors import StorageError
from hybridmu.runtime.purge.row_purge import purge_rows
from hybridmu.store.dataset import generation, shard_reader
from tests.support import open_lake, table, write

SHARD = 1


def source(rows: int = 120) -> pa.Table:
    """A table with every kind of feature, some of them null."""
    made = table(rows, features=1, groups=20)
    random = np.random.default_rng(0)
    pixels = [None if i % 11 == 0 else random.integers(0, 256, 3).tolist() for i in range(rows)]
    words = [None if i % 7 == 0 else f"w{i % 5}" for i in range(rows)]
    made = made.append_column("pixels", pa.array(pixels, pa.list_(pa.uint8(), 3)))
    made = made.append_column("word", pa.array(words))
    return made.append_column("kind", pa.array(words).dictionary_encode())


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake whose slices have several row groups each."""
    folder = tmp_path_factory.mktemp("lake")
    write(folder, source())
    patch = pytest.MonkeyPatch()
    patch.setattr(generation, "_GROUP_ROWS", 4)
    data = {"group": "person", "fills": {"pixels": 0, "word": "?", "kind": "?"}, "scale": {"pixels": 0.1}}
    yield open_lake(folder, data=data, sisa={"shards": 2})
    patch.undo()


def test_the_whole_shard_is_what_the_source_says(lake):
    made = source()
    tables = lake.shard("train", SHARD)
    whole = np.arange(len(tables.outline))
    (rows,) = tables.rows(whole)
    by_id = {digest(lake.key, "id", row): at for at, row in enumerate(made["id"].to_pylist())}
    at = pa.array([by_id[row.tobytes()] for row in rows.ids])
    assert len(rows) > 40
    assert pq.ParquetFile(lake.storage.path(*lake.files("train", SHARD))).num_row_groups > 10
    assert torch.equal(rows.x, torch.from_numpy(lake.manifest.encoder.encode(made.take(at))))
    assert torch.equal(rows.y, torch.from_numpy(lake.manifest.encoder.encode_labels(made.take(at))))
    assert torch.equal(rows.x, lake.rows("train", SHARD, set()).x)


@settings(max_examples=60)
@given(data=st.data(), batch=st.sampled_from([1, 2_000, 1 << 30]))
def test_parts_are_parts_of_the_whole(lake, data, batch):
    tables = lake.shard("train", SHARD)
    size = len(tables.outline)
    whole = lake.rows("train", SHARD, set())
    wanted = [
        np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), dtype=np.int64)
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_reader, "_BATCH_BYTES", batch)
        parts = tables.rows(*wanted)
    for positions, part in zip(wanted, parts, strict=True):
        expected = whole.take(positions)
        assert torch.equal(part.x, expected.x)
        assert torch.equal(part.y, expected.y)
        for name in ("slice", "ids", "groups", "content"):
            assert np.array_equal(getattr(part, name), getattr(expected, name))


def damage(path: Path, column: str, group: int) -> None:
    """Change a byte in the page of a column."""
    metadata = pq.ParquetFile(path).metadata.row_group(group)
    names = [metadata.column(i).path_in_schema for i in range(metadata.num_columns)]
    chunk = metadata.column(names.index(column))
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def damaged(lake):
    """Damage pages of the shard's table; it is whole again afterwards."""
    path = Path(lake.storage.path(*lake.files("train", SHARD)))
    whole = path.read_bytes()
    yield lambda column, group: damage(path, column, group)
    path.write_bytes(whole)


def test_features_of_other_row_groups_are_not_read(lake, damaged):
    metadata = pq.ParquetFile(lake.storage.path(*lake.files("train", SHARD))).metadata
    bounds = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(6))])
    whole = lake.rows("train", SHARD, set())
    damaged("pixels", 3)
    tables = lake.shard("train", SHARD)
    apart = np.array([0, bounds[3] - 1, bounds[4], bounds[5]])
    assert torch.equal(tables.rows(apart)[0].x, whole.x[apart])
    for inside in (bounds[3], bounds[4] - 1):
        with pytest.raises(StorageError, match="damaged"):
            tables.rows(np.array([inside]))
        with pytest.raises(StorageError, match="damaged"):
            tables.rows(apart, np.array([inside]))


@pytest.mark.parametrize("column", ["_id", "_group", "_slice"])
def test_a_damaged_key_is_found_whoever_is_asked_for(lake, damaged, column):
    damaged(column, 5)
    with pytest.raises(StorageError, match="damaged"):
        lake.rows("train", SHARD, {("id", bytes(16))}, only_revoked=True)


def test_a_table_that_is_purged_in_between_is_not_mixed_up(tmp_path):
    write(tmp_path, source(40))
    lake = open_lake(tmp_path, data={"features": ["x0"]}, sisa={"shards": 1})
    tables = lake.shard("train", 0)
    assert purge_rows(lake, 0, {("id", tables.outline.ids[3].tobytes())})
    with pytest.raises(StorageError, match="was replaced while it was read"):
        tables.rows(np.array([5]))
