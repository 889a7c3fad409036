"""Looking through storage for what a purge should have left nowhere.

Tables are looked at when they are rewritten, and their footers say that no value stands apart from its row; weights are
swept by reference; certificates hold keyed hashes alone and are covered by their chain; manifest and journal are
searched by field (`own_text`). Everything else under `storage_url`, known or not, is searched: names, bytes, and what
the bytes don't show (`contents`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from hybridmu.core.kernel.partition import digest
from hybridmu.core.proof.byte_search import DIGEST_BYTES, Needles, spelled, widened
from hybridmu.errors import DataError, PurgeError
from hybridmu.runtime.purge.file_contents import contents
from hybridmu.runtime.purge.file_pieces import Filter, Values
from hybridmu.runtime.purge.own_files import own_text
from hybridmu.runtime.purge.table_rewrite import stands_apart
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import stored_name
from hybridmu.store.storage.object_versions import Leftover, delete_noncurrent, list_noncurrent
from hybridmu.types import KeyKind

_log = logging.getLogger(__name__)
_LINEAGE_BYTES = 92  # a shard's number, a hash and a check
_WEIGHTS = re.compile(r"blobs/shard-(\d{5})/[0-9a-f]{48}\.safetensors")
_LINEAGE = re.compile(r"lineage/shard-(\d{5})/[0-9a-f]{48}")
_CERTIFICATE = re.compile(r"certificates/\d{8,}\.json")
_OF_A_SHARD = re.compile(r"(?:^|/)shard-(\d{5})(?:/|\.parquet$)")
_DIGITS = 20  # of the largest integer that is an id
_PIECE = 1 << 20  # small pieces are searched together


class Look:
    """One search of storage.

    Args:
        lake: Names storage, its tables and the columns of ids and groups.
        needles: Digests and telling raw ids of purged rows.
        database: Path of SQLite's file, which may lie in storage; it is searched when it is cleaned.
        waiting: Names of copies of new rows, which went through the guard; those of a correction have the same ids.
    """

    def __init__(
        self, lake: Lake, needles: Collection[bytes], database: str = "", waiting: Collection[str] = ()
    ) -> None:
        self._lake, self._storage, self._waiting = lake, lake.storage, frozenset(waiting)
        self._meaning = {spelling: needle for needle in needles for spelling in spelled([needle]) | widened(needle)}
        self._needles = Needles(self._meaning)
        self._digests = frozenset(needle for needle in needles if len(needle) == DIGEST_BYTES)
        self._hashes = Needles(spelled(self._digests))
        self._skipped = _within(self._storage.local, database)

    def run(self) -> tuple[dict[str, frozenset[bytes]], dict[str, int]]:
        """Search every file.

        Returns:
            (file → needles that it holds, how many needles, files and bytes were searched).

        Raises:
            PurgeError: A table may keep values apart from its rows.
        """
        self._storage.drop_stale_staging()
        found: dict[str, frozenset[bytes]] = {}
        files = size = 0
        tables = self._lake.names()
        every = self._storage.list()
        ours = [info for info in every if info.name in tables or info.name in self._waiting]
        if apart := [info.name for info in ours if stands_apart(self._storage, info)]:
            raise PurgeError(
                f"{len(apart)} table(s) may keep values of rows that are gone",
                expected="values in rows alone, as this release writes them",
                got=", ".join(apart[:3]),
                remedy="rewrite them with `hybridmu upgrade -c CONFIG`",
            )
        for info in every:
            if self._is_ours(info.name, info.size, tables):
                continue
            try:
                held = self._in_file(info.name)
            except FileNotFoundError:
                continue  # somebody's temporary file
            files, size = files + 1, size + info.size
            if held:
                found[_shown(info.name)] = frozenset(held)
        links = self._storage.links()
        for name in links:
            _log.warning("%s in storage is a link: what it leads to is not looked at", _shown(name))
            if held := self._in_bytes(_written(name)):
                found[_shown(name)] = frozenset(held)
        looked = {"needles": len(set(self._meaning.values())), "files": files, "bytes": size}
        return found, looked | ({"links_not_followed": len(links)} if links else {})

    def _is_ours(self, name: str, size: int, tables: frozenset[str]) -> bool:
        """Return whether other checks than this search cover a file."""
        if name in tables or name in self._waiting or _CERTIFICATE.fullmatch(name):
            return True
        if match := _WEIGHTS.fullmatch(name) or (_LINEAGE.fullmatch(name) if size <= _LINEAGE_BYTES else None):
            return int(match[1]) < self._lake.shards
        return name in self._skipped

    def _in_file(self, name: str) -> set[bytes]:
        if (own := own_text(name, lambda: self._storage.read(name))) is not None:
            return {self._meaning[one] for one in self._hashes.in_(own.hashes)} | self._in_bytes(own.said)
        held = self._in_bytes(_written(name))
        with self._storage.reading(name) as file:
            for found in self._needles.in_stream(file.read):
                held |= {self._meaning[spelling] for spelling in found}
        with self._storage.reading(name) as source:
            return held | self._in_contents(name, source)

    def _in_bytes(self, data: bytes) -> set[bytes]:
        return {self._meaning[spelling] for spelling in self._needles.in_(data)}

    def _in_contents(self, name: str, source: Any) -> set[bytes]:
        """Return what is found in what the file's bytes don't show."""
        held: set[bytes] = set()
        waiting, size = [], 0
        for piece in contents(name, source):
            if isinstance(piece, Filter):
                held |= {needle for needle in self._meaning.values() if piece.holds(needle)}
                continue
            if isinstance(piece, Values):
                held |= self._keyed(piece.name, piece.values)
                if piece.shown:
                    continue
                piece = b"\n".join(_as_text(piece.values))
            waiting.append(piece)
            size += len(piece)
            if size > _PIECE:
                held |= self._in_bytes(b"\n".join(waiting))
                waiting, size = [], 0
        return held | self._in_bytes(b"\n".join(waiting))

    def _keyed(self, name: object, values: Collection[object]) -> set[bytes]:
        """Return the digests of ids and groups in a column of their name: numbers are too short to be searched for."""
        data, manifest = self._lake.settings.data, self._lake.manifest
        kinds: list[tuple[KeyKind, str | None, str | None]] = [
            ("id", data.id, manifest.id_type),
            ("group", data.group, manifest.group_type),
        ]
        held: set[bytes] = set()
        for kind, column, type_ in kinds:
            if column is None or name not in {column, stored_name(column)}:
                continue
            for spelling in {other for value in values for other in meant(value, "int" in (type_ or ""))}:
                with suppress(DataError):
                    held.add(digest(self._lake.key, kind, spelling))
        return held & self._digests


def meant(value: object, number: bool) -> set[int | str]:
    """Return the ids that a value in another file may stand for: a number is one however it is written.

    Args:
        value: As it was read.
        number: Whether ids are integers.

    Example:
        >>> meant(" +1017.0", True), meant(b"r7 ", False) == {"r7", "r7 "}
        ({1017}, True)
    """
    if value is None or isinstance(value, (bool, dict, list, tuple)):
        return set()
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    whole: set[int | str] = set()
    with suppress(ArithmeticError, ValueError):
        exact = Decimal(text.strip())
        # A number of more digits is no id, and an exponent may ask for a billion of them.
        if exact.is_finite() and exact.adjusted() < _DIGITS and exact == exact.to_integral_value():
            whole = {int(exact)}
    if number:
        return whole
    as_text = [] if isinstance(value, (str, bytes)) else map(str, whole)
    return {text, text.strip(), *as_text}


def _as_text(values: Collection[object]) -> Iterator[bytes]:
    """Yield values in which an id may stand; numbers of fewer digits are too short to be searched for."""
    for value in values:
        if isinstance(value, bytes):
            yield value
        elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            yield str(value).encode(errors="surrogatepass")


def _written(name: str) -> bytes:
    """Return a file's name as the file system has it, which may be no UTF-8."""
    return name.encode(errors="surrogateescape")


def _shown(name: str) -> str:
    r"""Return a file's name as the ledger can hold it, other bytes than UTF-8's as `\udcff`."""
    return name.encode(errors="backslashreplace").decode()


def _within(root: Path | None, database: str) -> frozenset[str]:
    """Return the names of SQLite's files, if they lie in storage."""
    if root is None or not database or not Path(database).resolve().is_relative_to(root.resolve()):
        return frozenset()
    name = Path(database).resolve().relative_to(root.resolve()).as_posix()
    return frozenset(f"{name}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))


def drop_old_versions(lake: Lake, shards: Collection[int]) -> int:
    """Delete what a versioned bucket keeps of replaced and deleted objects, and look whether it is gone.

    Left alone are the old versions of other shards' files, at which jobs may be at work, and unfinished uploads of
    files that belong to no shard, which a client may be making.

    Args:
        lake: Names storage.
        shards: Shards whose files were purged.

    Returns:
        How many old versions went; 0 where storage keeps none.

    Raises:
        PurgeError: One is still there.
        StorageError: S3 does not let us look.
    """
    there = _leftovers(lake, shards)
    dropped = delete_noncurrent(lake.storage.url, {item.name for item in there})
    if left := _leftovers(lake, shards) if there else []:
        raise PurgeError(
            f"{len(left)} old version(s) of purged files are still there",
            got=", ".join(sorted({item.name for item in left})[:3]),
            remedy="end the bucket's retention or legal hold on them, or abort the uploads",
        )
    return dropped


def _leftovers(lake: Lake, shards: Collection[int]) -> list[Leftover]:
    return list(_ours(list_noncurrent(lake.storage.url), set(shards)))


def _ours(found: Collection[Leftover], shards: set[int]) -> Iterator[Leftover]:
    for item in found:
        match = _OF_A_SHARD.search(item.name)
        if match is None and item.kind == "upload":
            continue
        if match is None or int(match[1]) in shards:
            yield item
