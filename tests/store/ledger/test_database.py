"""Opening the database, what it refuses, and what a failure in the middle leaves behind, on both kinds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

import hybridmu
from hybridmu.errors import ConfigError, DatabaseError, PurgeError, StateError
from hybridmu.store.ledger import migrations
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.engine import postgresql as dialect
from hybridmu.store.ledger.engine import sqlite
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.purge.database_scrub import clean
from tests import postgres
from tests.support import HANG_SECONDS, key, repeat, rows_of, settings_dict


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request, tmp_path):
    """A database without tables; the SQLite file does not exist yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite3'}"
    else:
        with request.getfixturevalue("postgresql").database("template0") as url:
            yield url


# ---------------------------------------------------------------------- opening


def test_only_training_makes_a_database(bare_url, tmp_path):
    with pytest.raises(StateError, match="nothing was trained here"):
        connect(bare_url)
    assert list(tmp_path.iterdir()) == []
    connect(bare_url, create=True).dispose()
    connect(bare_url).dispose()


@pytest.mark.parametrize(
    "ask",
    [
        lambda system: system.status(),
        lambda system: system.plan(ids=[1]),
        lambda system: system.forget(ids=[1]),
        lambda system: system.verify(),
        lambda system: system.predict([{"x0": 0.0}]),
        lambda system: system.run(until_idle=True),
        lambda system: system.ledger.requests(),
    ],
    ids=["status", "plan", "forget", "verify", "predict", "run", "requests"],
)
def test_a_verb_on_a_storage_that_was_never_trained_leaves_no_trace(tmp_path, make_table, ask):
    make_table()
    with hybridmu.connect(settings_dict(tmp_path), executor="local") as system:
        with pytest.raises(StateError, match="nothing was trained here"):
            ask(system)
        assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_an_empty_file_is_not_a_trained_storage(tmp_path):
    file = tmp_path / "ledger.sqlite3"
    file.touch()  # what a crash at the very beginning of a training leaves
    with pytest.raises(StateError, match="nothing was trained here"):
        connect(f"sqlite:///{file}")
    connect(f"sqlite:///{file}", create=True).dispose()


def test_many_at_once_may_make_the_tables(bare_url):
    start = threading.Barrier(6)

    def make(_: int) -> str | None:
        start.wait()
        engine = connect(bare_url, create=True)
        with reader(engine).begin() as connection:
            found = migrations.revision(connection)
        engine.dispose()
        return found

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(make, range(6))) == {migrations.head()}


def test_a_database_names_its_own_files_and_no_servers(database_url):
    database = Database.open(database_url, create=True)
    found = database.files()
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        assert found == [file, *(file.with_name(f"{file.name}-{kind}") for kind in ("wal", "shm", "journal"))]
    else:
        assert found == []
    assert database.ledger.accept([key(1)]) == database.ledger.requests()[0]
    database.close()


def test_opening_what_is_up_to_date_is_quick_and_does_without_alembic(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    connect(url, create=True).dispose()
    took = []
    for _ in range(30):  # other work on the machine must not make it look slow
        started = time.perf_counter()
        connect(url, create=True).dispose()
        took.append(time.perf_counter() - started)
    assert min(took) < 0.02, "Alembic alone takes longer"
    script = (
        "import sys; from hybridmu.store.ledger.engine.opening import connect; connect(sys.argv[1], create=True); "
        "assert not [name for name in sys.modules if name.startswith(('alembic', 'psycopg'))]"
    )
    subprocess.run([sys.executable, "-c", script, url], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize("create", [True, False])
def test_tables_of_a_newer_release_are_refused(engine, database_url, create):
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StateError, match="newer release") as refused:
        connect(database_url, create=create)
    assert refused.value.got == "revision 9999"
    with engine.begin() as connection:
        assert migrations.revision(connection) == "9999"


def test_tables_of_an_older_release_are_left_to_train(engine, database_url, monkeypatch):
    monkeypatch.setattr(migrations, "head", lambda: "0002")  # as the next release says
    with pytest.raises(StateError, match="older release") as refused:
        connect(database_url)
    assert "hybridmu train" in refused.value.remedy


def test_a_database_of_something_else_is_left_alone(bare_url):
    Path(sa.make_url(bare_url).database or "").parent.mkdir(exist_ok=True)
    theirs = sa.create_engine(bare_url.replace("postgresql:", "postgresql+psycopg:"))
    with theirs.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE requests (number INTEGER)")
    with pytest.raises(StateError, match="not ours"):
        connect(bare_url, create=True)
    with theirs.begin() as connection:
        assert sa.inspect(connection).get_table_names() == ["requests"]
    theirs.dispose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("no url with a secret", "not a database URL"),
        ("mysql://me:secret@host/db", "unknown kind"),
        ("postgresql+asyncpg://me:secret@host/db", "unknown kind"),
        ("sqlite://", "names no file"),
    ],
)
def test_a_wrong_url_is_refused_without_showing_it(url, says):
    with pytest.raises(ConfigError, match=says) as refused:
        connect(url, create=True)
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match="driver is not installed") as refused:
        connect("postgresql://host/db")
    assert refused.value.remedy == "pip install 'hybridmu[postgres]'"


@pytest.mark.parametrize("where", ["@127.0.0.1:9/db", "@/db?host=/nowhere"])
def test_an_unreachable_server_is_a_clear_error(where):
    with pytest.raises(DatabaseError, match="can't be reached") as refused:
        connect(f"postgresql://me:secret{where}")
    assert "secret" not in str(refused.value)


def test_a_folder_that_can_not_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "deep").write_text("a file is in the way")
    with pytest.raises(DatabaseError, match="can't be made"):
        connect(f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite3'}", create=True)


# ---------------------------------------------------------------------- transactions


def test_a_reader_sees_one_state_and_can_not_write(engine, ledger):
    ledger.accept([key(1)])
    count = sa.select(sa.func.count()).select_from(t.tombstones)
    with reader(engine).begin() as connection:
        assert connection.scalar(count) == 1
        ledger.accept([key(2)])  # it does not wait for the reader
        assert connection.scalar(count) == 1
    assert len(rows_of(engine, t.tombstones)) == 2


def test_writers_wait_for_each_other_and_readers_for_nobody(engine, ledger):
    first, second = ledger.accept([key(1)]), []
    with engine.begin() as connection:
        connection.execute(t.meta.insert().values(key="k", value="v"))
        waiting = threading.Thread(target=lambda: second.append(ledger.accept([key(2)])))
        waiting.start()
        assert ledger.requests() == [first]
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(HANG_SECONDS)
    assert ledger.requests() == [first, *second]


def test_a_writer_that_waits_too_long_is_told_so(database_url, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(dialect, "_BEGIN_WRITE", dialect._BEGIN_WRITE.replace("'30s'", "'200ms'"))
    engine = connect(database_url, create=True)
    with engine.begin(), pytest.raises(DatabaseError, match="another writer"), engine.begin():
        pass
    Ledger(engine).accept([key(1)])
    engine.dispose()


def test_a_writer_that_hangs_is_ended_before_those_that_wait_for_it_give_up(postgresql, monkeypatch):
    assert "'30s'" in dialect._BEGIN_WRITE
    assert "'20s'" in dialect._BEGIN_WRITE
    shorter = dialect._BEGIN_WRITE.replace("'30s'", "'3s'").replace("'20s'", "'1s'")
    monkeypatch.setattr(dialect, "_BEGIN_WRITE", shorter)
    with postgresql.database() as url:
        hanging, engine = connect(url), connect(url)
        connection = hanging.connect()
        connection.begin()
        Ledger(engine).accept([key(1)])
        with pytest.raises(DatabaseError, match="idle-in-transaction"):
            connection.execute(sa.select(1))
        connection.close()
        hanging.dispose()
        engine.dispose()


def test_numbers_beyond_32_bits_and_fractions_of_a_second_survive(engine):
    now = 1_700_000_000.123456
    with engine.begin() as connection:
        connection.execute(
            t.costs.insert().values(strategy="retrain", visits=2**40 + 1, checkpoints=1, seconds=now, rows=0)
        )
        connection.execute(t.needs.insert().values(request_id="r", shard=0, upto=2**40 + 1))
    assert [(row.visits, row.seconds) for row in rows_of(engine, t.costs)] == [(2**40 + 1, now)]
    assert [row.upto for row in rows_of(engine, t.needs)] == [2**40 + 1]


# ---------------------------------------------------------------------- failures


@pytest.fixture
def on_server(postgresql):
    """(server, ledger, engine) on PostgreSQL alone."""
    with postgresql.database() as url:
        engine = connect(url)
        yield postgresql, Ledger(engine), engine
        engine.dispose()


def kill_once(server: postgres.Server, engine: sa.Engine, moment: str, before: str = "") -> None:
    """Let the server end the connection at a statement that contains `before`, or when a transaction is committed."""

    killed = []

    def kill(connection: sa.Connection, *details: object) -> None:
        if before not in str(details[1:2]) or killed:
            return
        raw = connection.connection.driver_connection
        assert raw is not None
        killed.append(raw.info.backend_pid)
        server.execute(f"SELECT pg_terminate_backend({killed[0]}, 5000)")

    event.listen(engine, moment, kill)


@pytest.mark.parametrize(
    ("moment", "statement"),
    [
        ("before_cursor_execute", "INSERT INTO requests"),
        ("before_cursor_execute", "INSERT INTO tombstones"),
        ("before_cursor_execute", "INSERT INTO idempotency"),
        ("commit", ""),
    ],
)
def test_a_connection_that_breaks_off_leaves_nothing(on_server, moment, statement):
    server, ledger, engine = on_server
    first = ledger.accept([key(1)], repeat=repeat("first"))
    kill_once(server, engine, moment, statement)
    with pytest.raises(DatabaseError, match="broke off") as broken:
        ledger.accept([key(2), key(3)], repeat=repeat("second"))
    assert "repeat the call" in broken.value.remedy
    assert ledger.requests() == [first]
    assert len(rows_of(engine, t.tombstones)) == len(rows_of(engine, t.idempotency)) == 1
    second = ledger.accept([key(2), key(3)], repeat=repeat("second"))
    assert ledger.requests() == [first, second]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_restarted_server_is_found_again(on_server, at_once):
    server, ledger, engine = on_server
    first = ledger.accept([key(1)])
    with pytest.raises(DatabaseError, match="broke off"), engine.begin() as connection:  # noqa: PT012
        connection.execute(t.meta.insert().values(key="half", value="done"))
        server.stop(at_once=at_once)
        connection.execute(t.meta.insert().values(key="other", value="half"))
    with pytest.raises(DatabaseError, match="can't be reached"):
        ledger.accept([key(2)])
    server.start()
    assert ledger.requests() == [first]
    assert rows_of(engine, t.meta) == []
    ledger.accept([key(2)])


def test_a_failed_compaction_leaves_no_connection_that_commits_by_itself(on_server):
    _, _, engine = on_server
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '200ms'")
    engine.dispose()
    other = connect(engine.url.render_as_string(hide_password=False))
    with other.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE tombstones")
        with pytest.raises(PurgeError, match="could not be compacted"):
            clean(engine, (), lambda: None)
    other.dispose()
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:  # noqa: PT012
        connection.execute(t.meta.insert().values(key="half", value="done"))
        raise ZeroDivisionError
    assert rows_of(engine, t.meta) == []
    clean(engine, (), lambda: None)


def test_a_full_disk_is_a_clear_error(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", create=True)
    ledger = Ledger(engine)
    with engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # the connection stays in the pool
    with pytest.raises(DatabaseError, match="disk of the database is full"):
        ledger.accept([key(n) for n in range(5000)])
    assert ledger.requests() == []
    assert rows_of(engine, t.tombstones) == []


@pytest.mark.parametrize("content", [b"not a database " * 100, None], ids=["other", "spoiled"])
def test_a_damaged_file_is_a_clear_error(tmp_path, content):
    file = tmp_path / "ledger.sqlite3"
    connect(f"sqlite:///{file}", create=True).dispose()
    file.write_bytes(content or file.read_bytes()[:100] + b"\xff" * 4000)
    with pytest.raises(DatabaseError, match="damaged"):
        connect(f"sqlite:///{file}")


def test_a_database_that_can_not_be_written_is_a_clear_error(tmp_path, on_server):
    engine = connect(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", create=True)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON"))
    with pytest.raises(DatabaseError, match="can't be written"):
        Ledger(engine).accept([key(1)])
    _, ledger, engine = on_server
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
    with pytest.raises(DatabaseError, match="can't be written"):
        ledger.accept([key(1)])


def test_mistakes_in_statements_are_not_called_a_failure_of_the_database(engine):
    with pytest.raises(sa.exc.DBAPIError) as mistake, engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM nothing_of_that_name")
    assert isinstance(mistake.value.orig, sqlite3.OperationalError) or "nothing_of_that_name" in str(mistake.value)
