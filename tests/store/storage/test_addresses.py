"""Paths are taken as they are, whatever they look like; and every storage has a ledger of its own."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

import hybridmu
from hybridmu.config import Settings
from hybridmu.config.addresses import database_address, is_url, local_path, shown
from hybridmu.errors import ConfigError, DatabaseError, DataError, StateError
from hybridmu.store.ledger.engine.opening import connect, database_url
from hybridmu.store.storage import storage
from hybridmu.store.storage.file_modes import PRIVATE, apply_modes
from hybridmu.store.storage.storage import Storage, open_fs
from tests.system.test_exactness import SGD, config_for, write_table

NAMES = ["exp#1", "a?b", "run%20x", "with space", "Größe", "C:\\data\\x", "a:b", "2026:01", "x;y", "s3"]
NAMES += ["a&b=c", "%2e%2e", "a+b", "[x]"]


def parsed(**changes: Any) -> Settings:
    return Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "storage"} | changes)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for text in (name, f"./{name}", str(tmp_path / name), f"{name}/"):
        found = parsed(storage_url=text)
        assert found.storage_url == str(tmp_path / name)
        assert found.database == f"sqlite:///{tmp_path / name}/ledger.sqlite3"
        assert database_url(found.database).database == f"{tmp_path / name}/ledger.sqlite3"
        assert found.keys_folder == tmp_path / f"{name}-keys"
        Storage(found.storage_url).write("f", b"x")
        assert (tmp_path / name / "f").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20))
def test_no_two_names_are_one_place(name):
    path = f"/base/x{name}"
    assert not is_url(path)
    assert local_path(path) == Path(path)
    url = parsed(storage_url=path).database
    assert database_url(url).database == str(Path(path) / "ledger.sqlite3")
    assert database_address(url) == url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file:///a/run%20x", "/a/run x"),
        ("file:///a/exp%231", "/a/exp#1"),
        ("file://localhost/a", "/a"),
    ],
)
def test_a_file_url_is_decoded(url, path):
    assert local_path(url) == Path(path)
    assert parsed(storage_url=url).database == f"sqlite:///{path}/ledger.sqlite3"
    assert open_fs(url)[1] == path


WRONG = ["file:///a#b", "file:///a?b", "file://host/a", "file:a", "file:/a", "file://a", "s3:bucket", "s3:/bucket/x",
         "", " ", "a\0b", "a\nb", "s3://bucket/exp#1", "sqlite:x", "~no-such-user-here/x",
         "file:///a/%ff", "file:///a/%C3", "file:///a/%0Ab", "file:///a/%00", "file:///a%00b", "file:///a%0Ab",
         "s3://[::1/x", "gs://[::1/x", "file://[::1/x"]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_neither_path_nor_url_is_refused(wrong):
    with pytest.raises(ConfigError, match="storage_url"):
        parsed(storage_url=wrong)
    with pytest.raises(ConfigError):
        open_fs(wrong)
    if wrong:
        with pytest.raises(ConfigError, match=r"data\.train"):
            parsed(data={"train": wrong})


@pytest.mark.parametrize("root", ["/", "//", "/.", "file:///"])
def test_the_root_is_no_folder_of_its_own(root):
    with pytest.raises(ConfigError, match="storage_url: it is the root"):
        parsed(storage_url=root)


@pytest.mark.parametrize(
    "url", ["hf://x/y", "mock://x/y", "ftp://x/y", "abfs://x", "gs://", "gs://b?what=1", "hdfs://no-host/x", "s3://"]
)
def test_what_no_file_system_opens_is_refused(url):
    with pytest.raises(ConfigError, match="can't open"):
        open_fs(url)


def test_another_store_than_s3_gives_up_soon_too(monkeypatch):
    asked: list[str] = []
    opener = SimpleNamespace(from_uri=lambda url: asked.append(url) or (LocalFileSystem(), "b"))
    monkeypatch.setattr(storage.pafs, "FileSystem", opener)
    for url in ("gs://b/x", "GS://b/x?scheme=http", "gs://b/x?retry_limit_seconds=99", "abfs://b@a/x"):
        open_fs(url)
    assert asked == [
        "gs://b/x?retry_limit_seconds=15",
        "GS://b/x?scheme=http&retry_limit_seconds=15",
        "gs://b/x?retry_limit_seconds=99",
        "abfs://b@a/x",
    ]


@pytest.mark.parametrize("url", ["postgresql://u:se/cr@et@[::1/x", "postgresql://u:secret@h:port/db"])
def test_a_malformed_database_url_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="is not a database URL") as refused:
        database_url(parsed(database_url=url).database)
    assert "se" not in str(refused.value).replace("database", "").replace("characters", "").replace("USER", "")
    assert shown(url).startswith("postgresql://…@")
    assert "et@" not in shown(url)


def test_a_database_in_memory_is_refused_as_it_was_written(tmp_path):
    with pytest.raises(ConfigError, match="sqlite:///:memory:"):
        connect(parsed(database_url="sqlite:///:memory:").database, create=True)
    with pytest.raises(DatabaseError, match="looked at"):
        connect(f"sqlite:///{tmp_path / ('a' * 300)}")  # not through the settings


def test_what_is_no_file_is_no_database_and_keeps_its_permissions(tmp_path):
    """As root, /dev/null would have been closed to everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    for create in (True, False):
        with pytest.raises(ConfigError, match="names no file"):
            connect(f"sqlite:///{pipe}", create=create)
    apply_modes(tmp_path, PRIVATE)
    assert pipe.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////v/l?x#y%20.db", "/v/l?x#y%20.db"),
        ("sqlite:///rel.db", "{cwd}/rel.db"),
        ("sqlite:///~/l.db", str(Path.home() / "l.db")),
    ],
)
def test_the_path_of_a_database_is_taken_as_it_is(tmp_path, monkeypatch, url, path):
    monkeypatch.chdir(tmp_path)
    found = parsed(database_url=url).database
    monkeypatch.chdir("/")
    assert database_url(found).database == path.format(cwd=tmp_path)


def test_a_relative_database_is_refused_inside_a_ray_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"database_url 'sqlite:///l\.db' is relative"):
        parsed(storage_url="/s", database_url="sqlite:///l.db")
    parsed(storage_url="/s", database_url="sqlite:////l.db")


# ---------------------------------------------------------------------- one ledger, one storage


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("owner")
    table = folder / "train#1.parquet"
    write_table(table, 40, string_ids=False, groups=0)
    made = config_for(folder, table, shards=2, slices=1, epochs=1, batch=8, optimizer=SGD, groups=0)
    made["database_url"] = f"sqlite:///{folder / 'one?ledger.db'}"
    with hybridmu.connect(made, executor="local") as system:
        assert system.train()["rows"]["train"] == 40
    return made


def requests(config: dict[str, Any]) -> int:
    with hybridmu.connect(config, executor="local") as system:
        return len(system.requests())


@pytest.mark.parametrize("seed", [0, 1])
def test_two_storages_do_not_share_a_ledger(config, tmp_path, seed):
    other = {**config, "storage_url": str(tmp_path / "other"), "sisa": {**config["sisa"], "seed": seed}}
    with hybridmu.connect(other, executor="local") as system, pytest.raises(StateError, match="another storage"):
        system.train()
    assert not (tmp_path / "other" / "lake").exists()
    assert requests(config) == 0  # and the first one is as it was


def test_a_storage_whose_ledger_is_elsewhere_is_not_trained_again(config, tmp_path):
    other = {**config, "database_url": f"sqlite:///{tmp_path / 'new.db'}"}
    with (
        hybridmu.connect(other, executor="local") as system,
        pytest.raises(StateError, match="belongs to another ledger"),
    ):
        system.train()
    with hybridmu.connect(other, executor="local") as system, pytest.raises(StateError):
        system.forget(ids=[1])


def test_a_table_that_is_missing_is_named_as_it_was_written(tmp_path):
    raw = {"data": {"train": str(tmp_path / "no#such.parquet")}, "storage_url": str(tmp_path / "s")}
    with hybridmu.connect(raw, executor="local") as system, pytest.raises(DataError, match="no#such"):
        system.train()
