"""Local storage: whole files or nothing, and errors that name the case."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hybridmu.config import Settings
from hybridmu.errors import ConfigError, StorageError
from hybridmu.store.storage.parquet import publish_parquet, read_parquet, writing
from hybridmu.store.storage.s3 import address_of
from hybridmu.store.storage.storage import FileInfo, Storage, open_fs
from tests.support import HANG_SECONDS


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path / "s"))


def names(storage: Storage) -> list[str]:
    return [file.name for file in storage.list()]


@pytest.mark.parametrize("form", ["path", "uri"])
def test_storage_publishes_whole_files(tmp_path, form):
    root = tmp_path / "a b"
    storage = Storage(str(root) if form == "path" else root.as_uri())
    storage.write("x/y.bin", b"1")
    storage.write("x/y.bin", b"22")
    assert (root / "x/y.bin").read_bytes() == storage.read("x/y.bin") == b"22"
    assert [p.name for p in (root / "x").iterdir()] == ["y.bin"]
    assert (storage.exists("x/y.bin"), storage.exists("x"), storage.exists("z")) == (True, False, False)
    assert storage.size("x/y.bin") == 2
    storage.delete("x/y.bin", "x/never.bin")
    storage.delete("x/y.bin")
    storage.delete_folder("x")
    storage.delete_folder("x")
    assert not (root / "x").exists()


def test_files_are_listed_with_size_and_time(storage):
    assert storage.list() == storage.list("lake") == []
    for name in ("lake/b", "lake/deep/er/a", "lakeside", "blobs/c.0123456789abcdef0123456789abcdef.tmp"):
        storage.write(name, name.encode())
    stat = Path(storage.path("lake/b")).stat()
    assert storage.list("lake")[0] == FileInfo("lake/b", 6, stat.st_mtime_ns)
    assert [(f.name, f.size, f.temporary) for f in storage.list()] == [
        ("blobs/c.0123456789abcdef0123456789abcdef.tmp", 44, True),
        ("lake/b", 6, False),
        ("lake/deep/er/a", 14, False),
        ("lakeside", 8, False),
    ]


def test_what_is_missing_is_missing(storage):
    for look in (storage.read, storage.size, storage.version):
        with pytest.raises(FileNotFoundError):
            look("no/such")


def test_a_rewrite_of_the_same_size_and_time_is_another_version(storage):
    storage.write("a", b"one")
    before, stamp = storage.version("a"), Path(storage.path("a")).stat().st_mtime_ns
    assert storage.version("a") == before
    storage.write("a", b"two")
    os.utime(storage.path("a"), ns=(stamp, stamp))
    assert storage.version("a") != before


def test_a_failed_write_leaves_the_old_file_and_nothing_else(storage, monkeypatch):
    storage.write("a/b", b"old")

    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write("a/b", b"new")
    monkeypatch.undo()
    assert storage.read("a/b") == b"old"
    assert names(storage) == ["a/b"]


def test_a_file_in_the_way_of_a_folder(storage):
    storage.write("a", b"1")
    with pytest.raises(StorageError, match="a file is where a folder should be"):
        storage.write("a/b", b"2")


CASES = """
    import resource, signal, subprocess, sys
    from pathlib import Path
    from hybridmu.errors import StorageError
    from hybridmu.store.storage.storage import Storage

    root = Path(sys.argv[1])
    def says(what, do):
        try:
            do()
        except StorageError as error:
            print(what, "|", " ".join(str(error).split()))
        else:
            print(what, "| nothing was raised")

    def mount(*options):
        subprocess.run(["mount", *options, str(root)], check=True)

    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    storage = Storage(str(root))
    storage.write("blobs/a", b"a" * 1000)
    says("full write", lambda: storage.write("blobs/b", b"b" * 1_000_000))
    says("full overwrite", lambda: storage.write("blobs/a", b"c" * 1_000_000))
    def stage():
        with storage.staging() as folder:
            (folder / "rows").write_bytes(b"r" * 1_000_000)
    says("full staging", stage)
    print("left |", [(f.name, f.size) for f in storage.list()], storage.read("blobs/a") == b"a" * 1000)
    mount("-o", "remount,ro")
    says("read-only write", lambda: storage.write("blobs/b", b"b"))
    says("read-only delete", lambda: storage.delete("blobs/a"))
    says("read-only staging", stage)
    mount("-o", "remount,rw")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    says("limited write", lambda: storage.write("blobs/b", b"b" * 3000))
    print("left |", [(f.name, f.size) for f in storage.list()], storage.read("blobs/a") == b"a" * 1000)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> dict[str, str]:
    """What storage says on a real device that is full, then read-only, then limited, in its own mounts."""
    root = tmp_path_factory.mktemp("device")
    try:
        subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "t", str(root)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount")
    command = ["unshare", "-Urm", sys.executable, "-c", textwrap.dedent(CASES), str(root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ", 1) for line in done.stdout.splitlines()]
    assert [says for what, says in lines if what == "left"] == ["[('blobs/a', 1000)] True"] * 2
    return dict(lines)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("full write", "no space is left"),
        ("full overwrite", "no space is left"),
        ("full staging", "No space left"),
        ("read-only write", "the file system is read-only"),
        ("read-only delete", "the file system is read-only"),
        ("read-only staging", "Read-only file system"),
        ("limited write", "the file is larger than the limit"),
    ],
)
def test_a_device_that_refuses_is_a_clear_error(device, what, says):
    assert says in device[what]
    assert "remedy: " in device[what]


def test_what_a_killed_process_staged_is_removed_by_the_next(tmp_path, storage):
    ready = tmp_path / "ready"
    program = f"""
        import time
        from pathlib import Path
        from hybridmu.store.storage.storage import Storage
        with Storage({storage.url!r}).staging() as folder:
            (folder / "rows.arrow").write_bytes(b"rows")
            Path({str(ready)!r}).touch()
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        while not ready.exists():
            assert process.poll() is None
        with storage.staging() as mine:  # the other one is at work: its folder stays
            assert sum(name.endswith("/rows.arrow") for name in names(storage)) == 1
            source = mine / "b"
            source.write_bytes(b"2")
            storage.publish(source, "lake/b")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert storage.drop_stale_staging() == 1
        assert names(storage) == ["lake/b"]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "spoil",
    [lambda d: d[: len(d) // 2], lambda d: d[:200] + bytes([d[200] ^ 4]) + d[201:], lambda d: d[:-8], lambda _: b""],
)
def test_a_damaged_table_is_an_error_not_other_rows(storage, spoil):
    table = pa.table({"x": pa.array(range(1000), pa.float32()), "id": pa.array(range(1000))})
    path = Path(storage.path("lake/t.parquet"))
    with storage.staging() as folder:
        pq.write_table(table, folder / "t", **writing(table.schema))
        publish_parquet(storage, folder / "t", "lake/t.parquet")
    assert pq.read_table(path) == read_parquet(storage, "lake/t.parquet") == table
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StorageError, match=r"lake/t\.parquet .* is damaged"):
        read_parquet(storage, "lake/t.parquet")


@pytest.mark.parametrize(
    "url", ["nosuch://x/y", "s3:/%%", "s3://", "s3://b/p?regoin=x", "s3://key:secret@b/p", "s3://b?scheme=ftp"]
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ConfigError) as error:
        open_fs(url)
    assert "secret" not in str(error.value)


def test_the_documented_configuration_is_valid():
    text = (Path(__file__).parents[3] / "docs" / "storage.md").read_text()
    [documented] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    settings = Settings.parse({"data": {"train": "t.parquet"}, **yaml.safe_load(documented)})
    address = address_of(settings.storage_url)
    assert (address.path, address.region, address.endpoint_url) == ("bucket/prefix", "eu-central-1", None)
    assert settings.database.startswith("postgresql")


def test_an_endpoint_may_name_its_own_scheme():
    address = address_of("s3://b/p/q/?endpoint_override=http://host:9000")
    assert (address.endpoint_url, address.endpoint, address.path) == ("http://host:9000", "host:9000", "b/p/q")
    assert address_of("s3://b").path == "b"
