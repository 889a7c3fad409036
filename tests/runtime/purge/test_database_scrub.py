"""Cleaning the database: raw bytes of SQLite's files, tables of a PostgreSQL server."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from hybridmu.core.proof.byte_search import Needles, spelled
from hybridmu.errors import PurgeError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.purge import database_scrub
from hybridmu.store.ledger.purge.database_scrub import clean
from hybridmu.store.ledger.purge.purge_records import Deletions
from tests.support import key, rows_of


def key_of(number: int):
    """A key whose bytes occur nowhere by chance."""
    return key(int.from_bytes(hashlib.blake2b(b"%d" % number, digest_size=16).digest(), "big"))


def digests(numbers) -> set[bytes]:
    return {key_of(number).key for number in numbers}


def forget(ledger, numbers) -> None:
    for start in range(0, len(numbers), 20):  # some at once, so that pages are split and balanced
        ledger.accept([key_of(number) for number in numbers[start : start + 20]])


def files(engine) -> dict[str, bytes]:
    """Bytes of every file of an SQLite database."""
    path = Path(engine.url.database)
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


def test_nothing_is_left_of_emptied_tombstones(ledger, engine, lease):
    token = lease.acquire("me", 60)
    gone, kept = range(0, 400, 2), range(1, 400, 2)
    forget(ledger, range(400))
    deletions, beats = Deletions(engine), []
    with pytest.raises(PurgeError, match="still hold"):
        clean(engine, digests(gone), lambda: None)
    deletions.scrub(token, {row.seq for row in rows_of(engine, t.tombstones) if bytes(row.key) in digests(gone)}, ())
    looked = clean(engine, digests(gone), lambda: beats.append(1))
    assert looked["needles"] == 200
    assert looked["bytes"] > 10_000
    assert beats, "the lease is kept meanwhile"
    if engine.dialect.name == "sqlite":
        found = files(engine)
        assert found.get("ledger.sqlite3-wal", b"") == b""
        assert not any(Needles(spelled(digests(gone))).in_(data) for data in found.values())
        assert Needles(digests(kept)).in_(found["ledger.sqlite3"]) == digests(kept), (
            "or the search finds nothing at all"
        )
    assert {bytes(row.key) for row in rows_of(engine, t.tombstones) if row.key} == digests(kept)


@pytest.fixture
def sqlite_only(engine):
    if engine.dialect.name != "sqlite":
        pytest.skip("looks into SQLite's file")
    return engine


def test_a_copy_in_free_space_is_vacuumed_away(ledger, sqlite_only, lease):
    token = lease.acquire("me", 60)
    forget(ledger, range(50))
    with sqlite3.connect(sqlite_only.url.database) as careless:  # whoever deletes without secure_delete
        careless.execute("PRAGMA secure_delete = OFF")
        careless.execute("CREATE TABLE copies AS SELECT * FROM tombstones")
        careless.commit()
        careless.execute("DROP TABLE copies")
    careless.close()
    Deletions(sqlite_only).scrub(token, set(range(1, 51)), ())
    with sqlite3.connect(sqlite_only.url.database) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    needles = Needles(digests(range(50)))
    assert needles.in_(files(sqlite_only)["ledger.sqlite3"]), "the free pages hold them"
    clean(sqlite_only, digests(range(50)), lambda: None)
    assert not needles.in_(files(sqlite_only)["ledger.sqlite3"])


def test_the_tables_of_a_server_are_written_anew(ledger, engine, lease, request):
    if engine.dialect.name == "sqlite":
        pytest.skip("looks into a server's files")
    server = request.getfixturevalue("postgresql")
    token = lease.acquire("me", 60)
    forget(ledger, range(100))
    server.execute("CHECKPOINT")
    needles = Needles(digests(range(0, 100, 2)))

    def found() -> set[bytes]:
        held = [needles.in_(file.read_bytes()) for file in server.folder.glob("data/base/**/*") if file.is_file()]
        return set().union(*held)

    assert len(found()) == 50
    Deletions(engine).scrub(token, set(range(1, 101, 2)), ())
    clean(engine, digests(range(0, 100, 2)), lambda: None)
    server.execute("CHECKPOINT")  # only then a server deletes the files of tables that it wrote anew
    assert found() == set()


def test_a_key_in_any_column_is_found(ledger, engine):
    for needle, value in ((b"customer-4711", "see customer-4711, please"), (bytes(range(16)), bytes(range(16)).hex())):
        with engine.begin() as connection:
            connection.execute(t.meta.insert().values(key="note", value=value))
        with pytest.raises(PurgeError, match=r"ledger\.sqlite3 still|table meta still"):
            clean(engine, [needle], lambda: None)
        with engine.begin() as connection:
            connection.execute(t.meta.delete())
        clean(engine, [needle], lambda: None)


def test_a_reader_that_keeps_the_log_in_use_is_named(ledger, sqlite_only, monkeypatch):
    monkeypatch.setattr(database_scrub, "_BUSY_MILLISECONDS", 50)
    with reader(sqlite_only).connect() as connection:
        connection.execute(sa.select(t.requests)).all()  # its snapshot is older than what comes
        forget(ledger, [1])
        with pytest.raises(PurgeError, match="keeps the database's log in use") as error:
            clean(sqlite_only, digests([2]), lambda: None)
        assert "tried again" in error.value.remedy
    clean(sqlite_only, digests([2]), lambda: None)


def test_a_writer_that_is_at_work_is_waited_for_only_so_long(ledger, engine, monkeypatch):
    if engine.dialect.name == "sqlite":
        pytest.skip("a writer does not keep a checkpoint from ending")
    monkeypatch.setattr(database_scrub, "_BUSY_MILLISECONDS", 50)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {t.tombstones.name} IN ROW EXCLUSIVE MODE")  # as a writer holds it
        with pytest.raises(PurgeError, match="could not be compacted"):
            clean(engine, digests([1]), lambda: None)
    clean(engine, digests([1]), lambda: None)


def test_losing_the_lease_ends_it(ledger, engine):
    class Lost(Exception):
        pass

    def beat():
        raise Lost

    with pytest.raises(Lost):
        clean(engine, digests([1]), beat)
    forget(ledger, [1])  # no lock and no connection was left behind
