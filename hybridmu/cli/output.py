"""Output of every command: the two consoles, one JSON document or words, errors with their exit code."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from hybridmu.cli.interrupts import INTERRUPTED
from hybridmu.errors import HybridMUError, UnknownKeysError
from hybridmu.report.json_values import finite
from hybridmu.report.terminal import Description, Terminal
from hybridmu.user_code import contained

if TYPE_CHECKING:
    from hybridmu.runtime.coordinator.snapshot import Snapshot
    from hybridmu.system.system import Watcher

err = Terminal(stderr=True)
out = Terminal()
_WIDEST = 10_000
COMMITTED = (
    "what was committed stays so, and `hybridmu run` goes on with it; `hybridmu requests list` and "
    "`hybridmu ingests list` show it"
)


@contextmanager
def results_apart() -> Iterator[None]:
    """Keep standard output for results: what else writes to it, a task's code or Ray, writes to standard error.

    In a process of its own this goes below Python, to what children and libraries write, and lasts: threads and exit
    handlers of a task may print when the verb is over. In somebody else's process it ends with the block.

    Yields:
        Nothing.
    """
    given = sys.stdout
    if out.file is not given:  # it is apart already
        yield
    elif given is None or given is sys.__stdout__:
        _move_standard_output()
        yield
    else:
        out.file, sys.stdout = given, sys.stderr
        try:
            yield
        finally:
            out.file, sys.stdout = None, given  # type: ignore[assignment]


def _move_standard_output() -> None:
    """Write results to what standard output was, and make standard output what standard error is."""
    if sys.stdout is None or sys.stderr is None:  # closed by the process that started this one
        return
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # For as long as the process lives.
    out.file = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115


def _write(document: Any) -> None:
    print(json.dumps(document), file=out.file, flush=True)


@contextmanager
def errors(as_json: bool, interrupted: str = "nothing was changed") -> Iterator[None]:
    """Turn an error that the caller can do something about into a message and exit code 2; an interrupt into code 130.

    Args:
        as_json: Print it on standard output as one JSON document as well.
        interrupted: What an interrupt leaves, and how to go on.

    Raises:
        Exit: In place of the error.
    """
    try:
        with results_apart(), contained():
            yield
    except KeyboardInterrupt:
        if as_json:
            _write({"error": "Interrupted", "what": interrupted, "expected": "", "got": "", "remedy": ""})
        err.print(f"interrupted: {interrupted}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (HybridMUError, OSError) as error:
        what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        if as_json:
            known = isinstance(error, HybridMUError)
            document: dict[str, Any] = {"error": type(error).__name__, "what": what}
            if known:
                document |= {name: getattr(error, name) for name in ("what", "expected", "got", "remedy")}
            if isinstance(error, UnknownKeysError):
                document["unknown"] = list(error.unknown)
            _write(document)
        err.print("error", style="red", end=" ")
        err.print(f"{type(error).__name__}: {what}", soft_wrap=True)
        raise typer.Exit(2) from None


@contextmanager
def bar(text: str) -> Iterator[Callable[..., None]]:
    """Show a bar; it pulses until what is yielded is called.

    Args:
        text: What is done.

    Yields:
        A function (done, in all, text), the last two optional.
    """
    columns = (Description(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(text, total=None)

        def advance(done: int, total: int | None = None, now: str = text) -> None:
            progress.update(task, description=now, total=total, completed=done)

        yield advance


@contextmanager
def progress(what: str) -> Iterator[Watcher]:
    """Show a bar of shard jobs.

    Args:
        what: What is done.

    Yields:
        What to call with a snapshot after every step.
    """
    with bar(f"{what}: starting") as advance:

        def watch(snapshot: Snapshot) -> None:
            if snapshot.rows_read:
                advance(snapshot.rows_read, None, f"{what}: rows read")
                return
            now = (
                "calibrating"
                if snapshot.calibrating
                else "paused, until `hybridmu resume`"
                if snapshot.paused
                else "shards"
            )
            text = f"{what}: {now}"
            done, total = snapshot.canaries if snapshot.calibrating else (snapshot.jobs_done, snapshot.jobs_total)
            advance(done, total or None, text)

        yield watch


def operator() -> str:
    """Return the operating system's name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have a number, but no name for it
        return f"uid {os.getuid()}"


def emit(result: Any, as_json: bool, show: Callable[[], object]) -> None:
    """Print a result: one JSON document, or what `show` prints for people."""
    if as_json:
        print(json.dumps(finite(result), default=str), file=out.file, flush=True)
    else:
        show()


def tell(text: str) -> None:
    """Print lines for people, however long they are."""
    out.print(text, soft_wrap=True)


def warn(warnings: Iterable[str]) -> None:
    """Print warnings to standard error, whatever form the result has."""
    for warning in warnings:
        err.print(f"warning: {warning}")


def print_table(table: Table) -> None:
    """Print a table; where no terminal shows it, as wide as it is: a file or a pipe gets every cell whole."""
    table.columns[0].no_wrap = True  # ids are copied
    (out if out.is_terminal else Terminal(width=_WIDEST, file=out.file)).print(table)
