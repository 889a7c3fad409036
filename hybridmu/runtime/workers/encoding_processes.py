"""Processes of this machine that encode rows as they come in, each some at a time.

Run as `python -m hybridmu.runtime.workers.encoding_processes` it is such a process: it reads a line of JSON and then
parts on standard input, answers on standard output, and ends with its input. Not `multiprocessing`, which would run the
caller's script once more, and hands pickles on.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import pyarrow as pa

from hybridmu import errors
from hybridmu.config import Settings
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoding_parts import (
    Part,
    derivation_of,
    document_of,
    encoded_part,
    from_bytes,
    here,
    in_order,
    spread,
    to_bytes,
)
from hybridmu.errors import HybridMUError, StateError
from hybridmu.kinds import search_here

_MOST = 16  # processes; each has the encoder's weights
_LENGTH = 8
# They share the cores: libraries that would take all of them for each process take one.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class EncodingProcesses:
    """Encodes parts in several processes; `close` ends them.

    Args:
        settings: Name the encoders.
        count: How many processes; None: one per core.
    """

    def __init__(self, settings: Settings, count: int | None = None) -> None:
        self._settings, self._count = settings, min(_MOST, cores() if count is None else count)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []
        self._closed = False

    def __call__(self, derivation: Derivation, parts: Iterable[Part]) -> Iterator[pa.Table]:
        """Return the derived columns of parts, in their order.

        Args:
            derivation: Its encoders.
            parts: Rows.

        Returns:
            An iterator. It raises a DataError that names the row where a value can't be encoded, and a StateError
            where a process ended twice with the same rows.
        """
        if self._count < 2:
            return here(derivation, parts)
        return spread(derivation, parts, lambda left: self._apart(derivation, left))

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._closed = True
        for process in self._all:
            process.end()

    def _apart(self, derivation: Derivation, parts: Iterator[Part]) -> Iterator[pa.Table]:
        document = document_of(self._settings, derivation)
        while len(self._all) < self._count:
            self._all.append(_Process(document))
            self._idle.put(self._all[-1])
        threads = ThreadPoolExecutor(self._count, thread_name_prefix="encode")

        def begin(part: Part) -> Future[pa.Table]:
            return threads.submit(self._encoded, part.to_bytes())

        try:
            yield from in_order(parts, begin, Future.result, Future.cancel, 2 * self._count)
        except BaseException:  # an interrupt, or a row that is refused
            self.close()  # or its threads would go on with parts that nobody wants
            threads.shutdown(cancel_futures=True)
            self.close()  # one may have been started meanwhile
            raise
        threads.shutdown()

    def _encoded(self, part: bytes) -> pa.Table:
        process = self._idle.get()
        try:
            try:
                return process.encoded(part)
            except _EndedError:
                if self._closed:  # nobody waits for it
                    raise
                process.start()
                return process.encoded(part)
        except _EndedError as error:
            raise StateError(
                "a process that encodes rows ended",
                got=f"exit code {error.code}, twice with the same rows",
                remedy="killed for memory, it needs more, or smaller values; nothing was stored",
            ) from None
        finally:
            self._idle.put(process)


class _EndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class _Process:
    """A process, and the pipes to it."""

    def __init__(self, document: str) -> None:
        self._document = document
        self.start()

    def start(self) -> None:
        """Start it, again where it ended."""
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"}
        # In a session of its own: an interrupt at the terminal is for the process that waits for it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._opening = json.dumps({"path": sys.path, "document": self._document}).encode() + b"\n"

    def encoded(self, part: bytes) -> pa.Table:
        """Return the derived columns of a part.

        Raises:
            _EndedError: It ended.
        """  # noqa: DOC501 - whatever it refused
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(self._opening)
            self._opening = b""
            _write(self._process.stdin, part)
            answer = _read(self._process.stdout)
        except (OSError, EOFError, ValueError):
            answer = None
        if answer is None:
            self.end()
            raise _EndedError(self._process.returncode)
        if answer[:1] == b"=":
            return from_bytes(answer[1:])
        raise _error_of(answer[1:])

    def end(self) -> None:
        """End it at once; it has nothing to finish."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was not sent is not wanted
                pass


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # of Linux alone
        return os.cpu_count() or 1


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(_LENGTH, "big"))
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """Return what `_write` wrote, or None at the end.

    Raises:
        EOFError: It ends within.
    """
    if not (head := pipe.read(_LENGTH)):
        return None
    size = int.from_bytes(head, "big")
    found = pipe.read(size)
    if len(head) < _LENGTH or len(found) < size:
        raise EOFError
    return found


def _error_of(said: bytes) -> HybridMUError:
    """Return the error that a process told of."""
    parts = json.loads(said)
    kind: type[HybridMUError] = getattr(errors, parts.pop("kind"))
    error = kind.__new__(kind)
    HybridMUError.__init__(error, parts.pop("what"), **parts)
    return error


def _answer(document: str, part: bytes) -> bytes:
    try:
        return b"=" + to_bytes(encoded_part(derivation_of(document), Part.from_bytes(part)))
    except HybridMUError as error:
        said = {"what": error.what, "expected": error.expected, "got": error.got, "remedy": error.remedy}
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        return b"!" + json.dumps({"kind": kind, **said}).encode()


def main() -> None:
    """Encode parts from standard input until it ends."""
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an encoder prints is no answer
    opening = json.loads(given.readline())
    sys.path[:] = opening["path"]
    search_here()
    while (part := _read(given)) is not None:
        _write(answers, _answer(opening["document"], part))


if __name__ == "__main__":
    main()
