"""Files whose names are no UTF-8: they are read, searched, told of and deleted like others."""

from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from hybridmu.errors import PurgeError, StateError
from hybridmu.store.storage.storage import Storage
from tests.scenes.purged_system import make_table as purged_table
from tests.scenes.purged_system import world
from tests.support import local_system, make_table

ODD = b"sub/\xff\xfe.bin"


@pytest.fixture(autouse=True)
def system_that_has_such_names(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")


def put(folder, name: bytes, data: bytes) -> None:
    path = os.path.join(os.fsencode(folder), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def test_they_are_listed_read_and_deleted(tmp_path):
    storage = Storage(str(tmp_path / "storage"))
    put(tmp_path / "storage", ODD, b"content")
    [info] = storage.list()
    assert os.fsencode(info.name) == ODD
    assert storage.read(info.name) == b"content"
    with storage.reading(info.name) as file:
        file.seek(3)
        assert file.read() == b"tent"
    with pytest.raises(FileNotFoundError):
        storage.read(f"{info.name}x")
    storage.delete(info.name, f"{info.name}x")
    assert storage.list() == []


def test_a_purge_searches_them_and_ends(tmp_path, clocked):
    pq.write_table(purged_table(60), tmp_path / "train.parquet")
    with world(tmp_path) as w:
        put(w.storage, ODD, b"nothing")
        os.symlink("elsewhere", os.path.join(os.fsencode(w.storage), b"link-\xff"))
        zero = w.forget([3])
        w.run()
        w.assert_certified(zero)
        put(w.storage, b"exports/\xff\xfe.csv", b"id\n10\n")
        one = w.forget([10])
        w.run()
        assert w.request(one).reason.startswith(r"not purged: exports/\udcff\udcfe.csv still names a purged row")
        w.system.site.storage.delete(os.fsdecode(b"exports/\xff\xfe.csv"))
        clocked()
        w.run()
        w.assert_certified(one)


def test_errors_that_name_them_can_be_told(tmp_path):
    error = PurgeError(f"{os.fsdecode(ODD)} is there", got=os.fsdecode(b"\xff"))
    assert str(error).encode() == b"sub/\\udcff\\udcfe.bin is there\n  got: \\udcff"
    make_table(tmp_path / "train.parquet", 40)
    put(tmp_path / "storage", ODD, b"")
    with local_system(tmp_path) as system, pytest.raises(StateError, match=r"sub/\\udcff"):
        system.train()


def test_decommissioning_deletes_them(tmp_path):
    make_table(tmp_path / "train.parquet", 40)
    with local_system(tmp_path, sisa={"shards": 2}) as system:
        system.train()
    with local_system(tmp_path, sisa={"shards": 2}) as system:
        for name in (ODD, b"\xff.txt"):
            put(tmp_path / "storage", name, b"")
        os.symlink("elsewhere", os.path.join(os.fsencode(tmp_path / "storage"), b"link-\xff"))
        done = system.decommission(reason="over")
        assert done["links_left"] == [r"link-\udcff"]
        there = {name for _, _, files in os.walk(os.fsencode(tmp_path / "storage")) for name in files}
        assert {name for name in there if b"\xff" in name} == {b"link-\xff"}
