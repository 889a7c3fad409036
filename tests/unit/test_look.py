"""Searching storage: a file that names a purged row is found, whatever it is and whoever put it there."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from hybridmu.core.partition import digest
from hybridmu.store.purge.look import Look
from tests.support import open_lake

NAME = "customer-4711"
NUMBER = 17


@pytest.fixture
def lake(tmp_path, make_table):
    make_table(40)
    return open_lake(tmp_path, sisa={"shards": 2})


@pytest.fixture
def needles(lake):
    """What a survey names: the digest of an integer id, a telling id as text, and the digest of that."""
    return {digest(lake.key, "id", NUMBER), NAME.encode(), digest(lake.key, "id", NAME)}


def found(lake, needles, **options) -> set[str]:
    return set(Look(lake, needles, **options).run()[0])


def put(lake, name: str, data: bytes) -> None:
    lake.storage.write(name, data)


def table(lake, name: str, columns) -> None:
    with lake.storage.staging() as folder:
        pq.write_table(pa.table(columns), folder / "t")
        lake.storage.publish(folder / "t", name)


def test_our_own_files_do_not_name_a_row(lake, needles):
    held, looked = Look(lake, needles).run()
    assert held == {}
    assert looked["needles"] == 3
    assert looked["files"] >= 1, "the manifest"
    assert looked["bytes"] > 0


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("notes.txt", b"please call customer-4711 back"),
        ("export.json", json.dumps({"id": NAME}).encode()),
        ("weights.bin", b"\0\1\2" + NAME.encode() + b"\xff"),
        (f"plots/{NAME}.png", b"a picture"),
        ("blobs/shard-00000/notes.txt", NAME.encode()),
        ("blobs/shard-00000/customer-4711.safetensors", b""),
        ("blobs/shard-00009/" + "a" * 48 + ".safetensors", NAME.encode()),
        ("lineage/shard-00000/" + "a" * 48, b"x" * 100 + NAME.encode()),
        ("certificates/notes.txt", NAME.encode()),
        ("certificates/00000001.json.bak", NAME.encode()),
        ("lake/manifest.json.old", NAME.encode()),
        ("mail.txt.gz", gzip.compress(b"dear customer-4711", mtime=0)),
        ("table.csv.gz", gzip.compress(b"id,x\n17,1\n", mtime=0)),
        ("table.csv", b"id,x\n16,1\n17,1\n"),
        ("table.tsv", b"x\tid\n1\t17\n"),
        ("rows.json", b'{"rows": [{"id": 16}, {"id": 17}]}'),
        ("rows.jsonl", b'{"id": 16}\n\n{"x": {"id": 17}}\n'),
        ("rows.jsonl.gz", gzip.compress(b'{"id": 17}\n', mtime=0)),
        ("not-really.parquet", b"customer-4711 is no table"),
        ("not-really.csv", b"\xff\xfe customer-4711 is not UTF-8"),
        ("ledger.sqlite3.bak", NAME.encode()),
        ("half-written.txt.0123.tmp", NAME.encode()),
    ],
)
def test_any_file_that_names_a_row_is_found(lake, needles, name, data):
    assert found(lake, needles) == set()
    put(lake, name, data)
    assert found(lake, needles) == {name}
    lake.storage.delete(name)
    assert found(lake, needles) == set()


def test_digests_are_found_as_bytes_and_as_text(lake, needles):
    one, two = sorted(needle for needle in needles if len(needle) == 16)
    put(lake, "raw", b"x" + one + b"y")
    put(lake, "hex", two.hex().encode())
    held, _ = Look(lake, needles).run()
    assert held == {"raw": {one}, "hex": {two}}


def test_copies_of_tables_are_decoded(lake, needles):
    table(lake, "copy.parquet", {"id": pa.array([16, 17]), "x": pa.array([1.0, 2.0])})
    table(lake, "lake/g0000/train/copy.parquet", {"id": pa.array([17])})
    table(lake, "named.parquet", {"who": pa.array(["customer-1", NAME]).dictionary_encode()})
    table(lake, "digests.parquet", {"_id": pa.array([digest(lake.key, "id", 17)], pa.binary(16))})
    table(lake, "others.parquet", {"id": pa.array([1, 2, 3]), "age": pa.array([17, 17, 17])})
    with lake.storage.staging() as folder:
        feather.write_feather(pa.table({"who": [NAME]}), folder / "t", compression="zstd")
        lake.storage.publish(folder / "t", "named.feather")
    assert found(lake, needles) == {
        "copy.parquet",
        "lake/g0000/train/copy.parquet",
        "named.parquet",
        "digests.parquet",
        "named.feather",
    }


def test_the_database_is_searched_elsewhere(lake, needles, tmp_path):
    put(lake, "ledger.sqlite3", NAME.encode())
    put(lake, "ledger.sqlite3-wal", NAME.encode())
    put(lake, "sub/ledger.sqlite3", NAME.encode())
    assert found(lake, needles, database=str(tmp_path / "storage" / "ledger.sqlite3")) == {"sub/ledger.sqlite3"}
    assert len(found(lake, needles, database=str(tmp_path / "elsewhere.sqlite3"))) == 3


def test_folders_of_dead_processes_are_removed_and_those_at_work_are_searched(lake, needles, tmp_path):
    with lake.storage.staging() as folder:
        (folder / "rows").write_bytes(NAME.encode())
        (tmp_path / "storage" / ".staging-dead").mkdir()
        (tmp_path / "storage" / ".staging-dead" / "rows").write_bytes(NAME.encode())
        assert found(lake, needles) == {f"{folder.name}/rows"}
    assert found(lake, needles) == set()


def test_groups_are_known_by_their_column(tmp_path, make_table):
    make_table(40, groups=5)
    lake = open_lake(tmp_path, data={"group": "person"}, sisa={"shards": 2})
    wanted = {digest(lake.key, "group", "p1")}
    put(lake, "people.csv", b"person,x\np1,2\n")
    put(lake, "others.csv", b"person,x\np2,2\n")
    put(lake, "another-column.csv", b"id,x\np1,2\n")
    assert found(lake, wanted) == {"people.csv"}
