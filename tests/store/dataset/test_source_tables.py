"""Files of a source table: every one is read, or named in an error that says why not."""

from __future__ import annotations

import os
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.source_tables import refused, rows_of
from tests.support import table, write


def test_links_within_a_folder_are_followed(tmp_path):
    made = table(30)
    write(tmp_path / "t", made.slice(0, 10))
    write(tmp_path / "other" / "deep", made.slice(10, 10), "a.parquet")
    write(tmp_path / "other", made.slice(20), "b.parquet")
    (tmp_path / "t" / "folder").symlink_to(tmp_path / "other" / "deep")
    (tmp_path / "t" / "file").symlink_to("../other/b.parquet")
    assert sorted(row["id"] for row in rows_of(tmp_path / "t")) == list(range(30))


@pytest.mark.parametrize("name", ["b.parquet", "sub/b", "_SUCCESS", "sub"])
@pytest.mark.parametrize("kind", ["link to nothing", "pipe", "socket"])
def test_what_is_neither_file_nor_folder_is_named(tmp_path, monkeypatch, kind, name):
    write(tmp_path / "t", table(20))
    path = tmp_path / "t" / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # the name of a socket may not be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    else:
        path.symlink_to(tmp_path / "nowhere")
    assert f"{path} is neither a file nor a folder" in refused(tmp_path, train=str(tmp_path / "t"))
    if kind != "link to nothing":
        assert f"{path} is neither a file nor a folder" in refused(tmp_path, train=str(path))


def test_a_link_back_is_named(tmp_path):
    write(tmp_path / "t" / "a" / "b", table(20))
    (tmp_path / "t" / "a" / "b" / "c").symlink_to(tmp_path / "t")
    assert f"{tmp_path}/t/a/b/c leads back" in refused(tmp_path, train=str(tmp_path / "t"))
    (tmp_path / "t" / "a" / "b" / "c").unlink()
    (tmp_path / "t" / "a" / "b" / "c").symlink_to("c")
    assert f"can't list {tmp_path}/t" in refused(tmp_path, train=str(tmp_path / "t"))


@pytest.mark.parametrize(
    "name", ["_x.parquet", ".x.parquet", "x.parq", "part-0", "a/b/c.parquet", "_a/.b/c", "x=1.parquet"]
)
def test_every_parquet_file_is_read_whatever_its_name(tmp_path, name):
    made = table(30)
    write(tmp_path / "t", made.slice(0, 10), "first.parquet")
    write((tmp_path / "t" / name).parent, made.slice(10), (tmp_path / "t" / name).name)
    assert sorted(row["id"] for row in rows_of(tmp_path / "t")) == list(range(30))


def test_what_tools_leave_beside_a_table_is_passed_over(tmp_path):
    write(tmp_path / "t", table(10))
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", "_committed_17", ".DS_Store"):
        (tmp_path / "t" / name).write_text("")
    assert len(rows_of(tmp_path / "t")) == 10


@pytest.mark.parametrize(
    "name", ["part.crc", "_SUCCESS", "_metadata", "_common_metadata", "_committed_1", "sub/.DS_Store"]
)
def test_rows_under_the_name_of_what_tools_leave_are_not_passed_over(tmp_path, name):
    write(tmp_path / "t", table(10))
    write((tmp_path / "t" / name).parent, table(10, start=10), (tmp_path / "t" / name).name)
    assert f"{tmp_path / 't' / name} is a Parquet file" in refused(tmp_path, train=str(tmp_path / "t"))


def test_a_summary_of_the_whole_table_is_passed_over(tmp_path):
    found: list[pq.FileMetaData] = []
    pq.write_table(table(10), tmp_path / "first", metadata_collector=found)
    found[0].set_file_path("train.parquet")
    write(tmp_path / "t", table(10))
    pq.write_metadata(table(10).schema, tmp_path / "t" / "_metadata", metadata_collector=found)
    pq.write_metadata(table(10).schema, tmp_path / "t" / "_common_metadata")
    assert pq.read_metadata(tmp_path / "t" / "_metadata").num_rows == 10
    assert len(rows_of(tmp_path / "t")) == 10


@pytest.mark.parametrize("content", [b"", b"id,label\n1,2\n", b"PAR1 no PAR1"])
@pytest.mark.parametrize("name", ["notes.txt", "z.parquet", "b/more.parquet"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, name, content):
    write(tmp_path / "t", table(10), "a.parquet")
    path = tmp_path / "t" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    message = refused(tmp_path, train=str(tmp_path / "t"))
    assert f"can't read {path}" in message
    assert "move" in message


def test_a_file_with_damaged_pages_is_named(tmp_path):
    write(tmp_path / "t", table(500), "a.parquet")
    write(tmp_path / "t", table(500, start=500), "b.parquet", write_page_checksum=True)
    data = bytearray((tmp_path / "t" / "b.parquet").read_bytes())
    data[400] ^= 255
    (tmp_path / "t" / "b.parquet").write_bytes(data)
    assert f"can't read {tmp_path / 't' / 'b.parquet'}" in refused(tmp_path, train=str(tmp_path / "t"))


def test_each_mistake_has_a_message_of_its_own(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no table file" in refused(tmp_path, train=str(tmp_path / "empty"))
    assert "does not exist\n" in refused(tmp_path, train=str(tmp_path / "nowhere.parquet"))
    assert "patterns are not expanded" in refused(tmp_path, train=str(tmp_path / "*.parquet"))
    assert "holds a NUL" in refused(tmp_path, train=f"{tmp_path}/a\0b")
    write(tmp_path, table(10).slice(0, 0))
    assert "the train table has no rows" in refused(tmp_path)
    write(tmp_path, pa.table({}))
    assert "train table has no rows" in refused(tmp_path)
    write(tmp_path, table(10).select(["id", "label"]))
    assert "no feature column" in refused(tmp_path)
    write(tmp_path, table(50))
    write(tmp_path, table(10).slice(0, 0), "test.parquet")
    assert "the test table has no rows" in refused(tmp_path, test=str(tmp_path / "test.parquet"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "t").mkdir(mode=0o000)
    assert "can't list" in refused(tmp_path, train=str(tmp_path / "t"))
