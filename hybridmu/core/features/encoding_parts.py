"""Parts of tables whose rows are encoded together: here, in other processes, or on a cluster; the same features.

An encoder's bits may depend on the values beside, and on the number of threads. So parts are cut in the same way
wherever they are encoded, each is encoded from its own first row on, and by one thread of PyTorch. What is left is the
processor: machines of several kinds may differ in the last bit of a network, which is why features are stored.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from hybridmu.config import Settings
from hybridmu.config.feature_settings import FeatureSettings
from hybridmu.core.features.derived import Derivation
from hybridmu.errors import StateError
from hybridmu.kinds import import_plugins

_MOST_BYTES = 256 << 20  # of rows that wait to be encoded, and of features that wait for those before them
_HERE = 2  # parts that are encoded by this process first: few rows are done before another one has started
_ABOUT = b"hybridmu"
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a table that follow each other.

    Attributes:
        table: The columns that encoders read.
        names: Derived columns that are made.
        first: Number of its first row in the table, from 1.
        url: Of the table, for errors.
    """

    table: pa.Table
    names: tuple[str, ...]
    first: int
    url: str

    def where(self, at: int) -> str:
        """Return what an error calls a row, by its place."""
        return f"row {self.first + at:,} of {self.url}"

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        about = json.dumps({"names": self.names, "first": self.first, "url": self.url}).encode()
        return to_bytes(self.table.replace_schema_metadata({_ABOUT: about}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Return the part that `to_bytes` wrote."""
        table = from_bytes(data)
        about: dict[str, Any] = json.loads(table.schema.metadata[_ABOUT])
        return cls(table.replace_schema_metadata(), tuple(about["names"]), about["first"], about["url"])


# Makes the derived columns of parts, in their order.
Encode = Callable[[Derivation, Iterable[Part]], Iterator[pa.Table]]


def encoded_part(derivation: Derivation, part: Part) -> pa.Table:
    """Return the derived columns of a part.

    Args:
        derivation: Its encoders.
        part: The rows.

    Raises:
        DataError: A value can't be encoded; its row is named.
        ConfigError: An encoder can't be had.
    """
    for column in derivation:
        _ = column.encoder  # before threads are counted: it may be the first to import PyTorch
    with _one_thread():
        return derivation.extended(part.table, part.names, part.where).select(list(part.names))


def here(derivation: Derivation, parts: Iterable[Part]) -> Iterator[pa.Table]:
    """Yield the derived columns of parts, made by this process."""
    for part in parts:
        yield encoded_part(derivation, part)


def spread(
    derivation: Derivation, parts: Iterable[Part], apart: Callable[[Iterator[Part]], Iterator[pa.Table]]
) -> Iterator[pa.Table]:
    """Yield the derived columns of parts, those of the first ones made by this process.

    So a small table starts no other process, and neither does one whose first rows are refused.

    Args:
        derivation: Makes them.
        parts: In their order.
        apart: Makes those of the others elsewhere, in their order.
    """
    left = iter(parts)
    yield from here(derivation, islice(left, _HERE))
    for part in left:  # the first of the others
        yield from apart(_chained(part, left))


def in_order(
    parts: Iterable[Part], begin: Callable[[Part], T], end: Callable[[T], pa.Table], drop: Callable[[T], Any], most: int
) -> Iterator[pa.Table]:
    """Yield what becomes of parts in their order, while later ones are worked on.

    Args:
        parts: Read as they are begun.
        begin: Starts the work on one.
        end: Waits for it.
        drop: Gives one up that nobody waits for any more.
        most: How many are worked on at once; fewer where their rows take more than 256 MB.
    """
    ahead: deque[tuple[T, int]] = deque()
    waiting = 0

    def next_one() -> pa.Table:
        nonlocal waiting
        begun, size = ahead.popleft()
        waiting -= size
        return end(begun)

    try:
        for part in parts:
            while ahead and (len(ahead) >= most or waiting + part.table.nbytes > _MOST_BYTES):
                yield next_one()
            ahead.append((begin(part), part.table.nbytes))
            waiting += part.table.nbytes
        while ahead:
            yield next_one()
    finally:
        for begun, _ in ahead:
            with suppress(Exception):
                drop(begun)


def document_of(settings: Settings, derivation: Derivation) -> str:
    """Return what another process needs to encode parts as this one does, as JSON.

    Args:
        settings: Name the encoders and the plugins.
        derivation: Its encoders' digests are compared there.
    """
    return json.dumps({
        "features": settings.features.model_dump(mode="json"),
        "fills": settings.data.fills,
        "plugins": settings.plugins,
        "digests": derivation.digests,
    })


@lru_cache(maxsize=2)  # of one process that encodes many parts
def derivation_of(document: str) -> Derivation:
    """Return the derived columns that `document_of` described.

    Raises:
        StateError: An encoder is another one here.
        ConfigError: One can't be had here.
        MissingExtraError: The same, for want of a package.
    """
    raw = json.loads(document)
    import_plugins(raw["plugins"])
    made = Derivation.of(FeatureSettings.model_validate(raw["features"]), raw["fills"])
    for column in made:
        _ = column.digest  # why it can't be had is said by its maker
    if others := made.others(raw["digests"]):
        raise StateError(
            f"the encoder of {others[0]!r} is another one in a process that encodes rows",
            expected="the same files, code, and versions of packages on every machine",
            remedy="bring them to all machines; nothing was stored",
        )
    return made


def to_bytes(table: pa.Table) -> bytes:
    """Return a table as bytes that `from_bytes` reads."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def from_bytes(data: bytes) -> pa.Table:
    """Return the table that `to_bytes` wrote."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()


def _chained(first: Part, left: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from left


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch compute with one thread, where it is there at all."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
