"""Locks of an SQLite ledger: what reads its file lets go of none, or other processes delete the log under its feet."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import hybridmu
from hybridmu.store.ledger.engine.unlocked_reading import UnlockedFile
from tests.support import make_table, settings_dict

OTHER = """
import sys
from hybridmu.store.ledger.database import Database
database = Database.open(sys.argv[1])
print(len(database.ledger.requests()), database.registry.served())
database.close()  # the last connection that a process closes deletes the log, if it finds nobody else
"""


@pytest.fixture
def config(tmp_path):
    make_table(tmp_path / "train.parquet", 80)
    policy = {"retention_seconds": 0, "verify_share": 0.0}
    return settings_dict(tmp_path, sisa={"shards": 2, "slices": 2}, policy=policy)


def seen_by_another_process(url: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", OTHER, url], capture_output=True, text=True, check=True)
    return done.stdout.split()


def open_files() -> set[str]:
    """Return the names of what this process has open; a deleted file's name says so."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
    return found


def locked_here(path: Path) -> bool:
    """Return whether this process holds a lock on a file, by what the kernel says."""
    number, me = str(path.stat().st_ino), str(os.getpid())
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(line[4] == me and line[5].endswith(f":{number}") for line in lines if line[1] != "->")


def test_what_a_coordinator_commits_after_a_purge_is_there_for_others(config):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[3], wait=True)
        system.run(until_idle=True)
        assert system.requests()[0]["state"] == "PURGED"
        url = system.settings.database
        assert seen_by_another_process(url) == ["1", "2"]
        system.forget(ids=[5], wait=True)
        assert seen_by_another_process(url) == ["2", "3"], "a request and a version that were acknowledged are gone"
        log = Path(f"{url.removeprefix('sqlite:///')}-wal")
        assert f"{log}" in open_files(), "this process writes into a log that was deleted"


def test_no_part_of_a_life_lets_go_of_the_lock(config):
    file = Path(config["storage_url"]) / "ledger.sqlite3"
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        assert locked_here(file)
        for work in (
            lambda: system.forget(ids=[3], wait=True),
            lambda: system.run(until_idle=True),
            lambda: system.status(),
            lambda: system.vitals(),
            lambda: system.verify(),
            lambda: system.upgrade(),
            lambda: hybridmu.connect(config, executor="local").settings,
        ):
            work()
            assert locked_here(file), work


def test_reading_a_file_keeps_the_locks_on_it(config):
    file = Path(config["storage_url"]) / "ledger.sqlite3"
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        for _ in range(2):
            stream, data = UnlockedFile(file), b""
            while piece := stream.read(1000):
                data += piece
            assert stream.tell() == len(data) == file.stat().st_size
            assert data.startswith(b"SQLite format 3")
            del stream
            assert locked_here(file)
