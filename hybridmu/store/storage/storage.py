"""Files under `storage_url`: a folder on this machine, or a prefix of an S3 bucket, through `pyarrow.fs`.

A write is all or nothing. Locally: temporary name, fsync, rename, fsync of the folder. Remotely: object stores show an
object only once it is complete; its size is compared afterwards. What goes wrong ends in a `StorageError` that names
the case and the remedy.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from hybridmu.config.addresses import local_path, shown
from hybridmu.errors import ConfigError, StorageError
from hybridmu.faults import reach
from hybridmu.store.storage import durable_files, staging
from hybridmu.store.storage.file_modes import PRIVATE, Modes
from hybridmu.store.storage.s3 import RETRY_SECONDS, address_of
from hybridmu.store.storage.storage_errors import explained
from hybridmu.store.storage.walk import entries, leads_elsewhere

# Object stores have no folders: making one would leave an empty object behind.
_FLAT = {"s3", "gcs"}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file in storage.

    Attributes:
        name: Relative to the root, with `/`.
        size: Bytes.
        mtime_ns: When it was written, nanoseconds since the epoch (S3 knows whole seconds).
    """

    name: str
    size: int
    mtime_ns: int

    @property
    def temporary(self) -> bool:
        """Return whether it is an unfinished write; one that nobody is making was left by a crash."""
        return durable_files.is_temporary(self.name)


Files = list[FileInfo]
_T = TypeVar("_T")
_READS = 4


class _ReplacedError(StorageError):
    """What was read may be of two objects."""


class Storage:
    """A folder on any `pyarrow.fs` file system.

    Args:
        url: Local path, taken as it is, or URI. `s3://bucket/prefix?region=…&scheme=…&endpoint_override=…` takes its
            credentials from where AWS's own tools do (environment, profile, instance role).
        modes: Who may read what is written to a local folder.

    Raises:
        ConfigError: The file system is not known.
    """

    def __init__(self, url: str, modes: Modes = PRIVATE) -> None:
        self.url, self.modes = url, modes
        self.fs, self.root = open_fs(url)
        self._bucket_seen = self.fs.type_name != "s3"

    @property
    def local(self) -> Path | None:
        """Return the folder when storage is local."""
        return Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        """Return the full path of a file name relative to the root."""
        return f"{self.root}/{name}"

    # ------------------------------------------------------------------ looking

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        return bool(self._info(name).type == pafs.FileType.File)

    def size(self, name: str) -> int:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return int(self._file(name).size)

    def version(self, name: str) -> str:
        """Return a text that changes whenever a file's content does, fit to name a cached copy.

        S3 dates objects to the second, so its entity tag is asked; locally a rewrite is a new inode.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if self.local is not None:
            with explained(self.url, "look at", name, missing=True):
                found = Path(self.path(name)).stat()
            return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
        if self.fs.type_name == "s3":
            with self.reading(name, fixed=True) as file:
                return _tag(file)
        info = self._file(name)
        return f"{info.mtime_ns}-{info.size}"

    def list(self, prefix: str = "") -> Files:
        """Return every file below a folder, unfinished writes included; links are no files, and are not followed.

        Args:
            prefix: A folder relative to the root; all of storage by default.

        Returns:
            The files in the order of their names; none when there is no such folder.
        """
        start = self.path(prefix).rstrip("/")
        with explained(self.url, "list", prefix):
            if self.local is not None:
                return sorted(self._local_files(self.local, Path(start)), key=lambda file: file.name)
            found = self.fs.get_file_info(pafs.FileSelector(start, recursive=True, allow_not_found=True))
            files = [info for info in found if info.type == pafs.FileType.File]
        if not found:
            self._check_bucket()
        skip = len(self.root) + 1
        return sorted((_described(info, info.path[skip:]) for info in files), key=lambda file: file.name)

    def refuse_links(self, *names: str) -> None:
        """Refuse a link in the place of a file or folder of ours: nothing below it would be seen or changed.

        Args:
            names: Relative to the root; those that are not there are passed over.

        Raises:
            StorageError: One of them is a link, or is reached by one.
        """
        if self.local is not None:
            for name in names:
                if leads_elsewhere(self.local, Path(self.path(name))):
                    raise self._reached_by_link(name)

    def links(self) -> Sequence[str]:
        """Return the names of symbolic links in a local folder; what they lead to is no part of storage."""
        if self.local is None:
            return []
        with explained(self.url, "list", ""):
            return sorted(name for name, entry in entries(self.local) if entry.is_symlink())

    # ------------------------------------------------------------------ reading

    def read(self, name: str, *, fixed: bool = False) -> bytes:
        """Return a file's bytes.

        Args:
            name: The file.
            fixed: As in `reading`.

        Returns:
            All of it.

        Raises:
            FileNotFoundError: There is no such file.
        """

        def read() -> bytes:
            with self.reading(name, fixed=fixed) as file:
                return bytes(file.read())

        return self.settled(read)

    def settled(self, read: Callable[[], _T]) -> _T:
        """Return what a function reads, repeated when the file was replaced under it (only object stores do that)."""
        for _ in range(_READS - 1):
            with suppress(_ReplacedError):
                return read()
        return read()

    @contextmanager
    def reading(self, name: str, *, fixed: bool = False) -> Iterator[Any]:
        """Open a file for reading at any position.

        A local file that is replaced meanwhile stays what it was for its readers. On S3 later reads are of the new
        object, so its entity tag is compared at the end.

        Args:
            name: The file.
            fixed: This name is never given to other bytes, so there is nothing to compare.

        Yields:
            A `pyarrow.NativeFile`.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with explained(self.url, "read", name, missing=True):
            try:
                file = self._opened(name)
            except FileNotFoundError:
                self._check_bucket()
                raise FileNotFoundError(errno.ENOENT, "no such file in storage", name) from None
            tag = None if fixed or self.fs.type_name != "s3" else _tag(file)
            with file:
                try:
                    yield file
                except Exception:
                    self._check_same(name, tag)
                    raise
                self._check_same(name, tag)

    # ------------------------------------------------------------------ writing

    def write(self, name: str, data: bytes) -> None:
        """Publish bytes under a name, all or nothing and durably; an existing file is replaced."""
        with explained(self.url, "write", name):
            if self.local is None:
                self._upload(name, pa.py_buffer(data))
                return
            durable_files.write(self._own(self.local, name), data, self.modes)

    def publish(self, source: Path, name: str) -> None:
        """Move a finished file of this machine into storage under a name, all or nothing and durably.

        Args:
            source: A file in a folder of `staging`; it is gone afterwards.
            name: Where it goes; an existing file is replaced.
        """
        with explained(self.url, "write", name):
            if self.local is None:
                with pa.memory_map(str(source)) as file:  # a shard may be larger than memory
                    self._upload(name, file.read_buffer())
                source.unlink()
                return
            durable_files.move(source, self._own(self.local, name), self.modes)

    def delete(self, *names: str) -> None:
        """Remove files, durably; those that are not there are passed over."""
        for name in names:
            with explained(self.url, "delete", name):
                if self.local is not None:
                    self._own(self.local, name)
                try:
                    if self.local is not None:
                        Path(self.path(name)).unlink()
                    else:
                        self.fs.delete_file(self.path(name))
                    reach("file.deleted")
                except FileNotFoundError:
                    self._check_bucket()
        if self.local is not None:
            with explained(self.url, "delete", ""):
                for folder in {Path(self.path(name)).parent for name in names}:
                    if folder.is_dir():
                        durable_files.sync_folder(folder)

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there; of links only themselves go."""
        with explained(self.url, "delete", name):
            if self.local is not None:
                folder = Path(self.path(name))
                if folder.is_dir() and not leads_elsewhere(self.local, folder):
                    shutil.rmtree(folder)
            elif self._info(name).type == pafs.FileType.Directory:
                self.fs.delete_dir(self.path(name))

    def staging(self) -> AbstractContextManager[Path]:
        """Return a folder on this machine for files that are to be published, as a context manager.

        It lies in storage itself where that is local, so that publishing is a rename, else in the machine's temporary
        folder; what dead processes left in such folders is removed first.
        """
        if self.local is not None:
            with explained(self.url, "make", ""):
                durable_files.make_folder(self.local, self.modes)
        return staging.folder(*self._staging_place())

    def drop_unfinished(self) -> int:
        """Return how many half-written files crashes had left; they are removed.

        A live writer whose file goes with them fails and has to write again: for the only process that writes.
        """
        if self.local is None:  # there an object is whole, or not to be seen
            return 0
        names = [file.name for file in self.list() if file.temporary]
        self.delete(*names)
        return len(names)

    def drop_stale_staging(self) -> int:
        """Return how many staging folders dead processes had left on this machine; they are removed."""
        return staging.drop_stale(*self._staging_place())

    # ------------------------------------------------------------------ helpers

    def _opened(self, name: str) -> Any:
        if self.local is not None and not _is_unicode(name):  # Arrow takes no such path
            return pa.PythonFile(Path(self.path(name)).open("rb"), mode="r")
        return self.fs.open_input_file(self.path(name))

    def _staging_place(self) -> tuple[Path, str]:
        if self.local is not None:
            return self.local, ".staging-"
        owner = hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()), f"hybridmu-{owner}.staging-"

    def _own(self, root: Path, name: str) -> Path:
        """Return the path of a file that may be changed.

        Raises:
            StorageError: A link leads to it: what lies elsewhere is not ours.
        """
        path = Path(self.path(name))
        if leads_elsewhere(root, path.parent):
            raise self._reached_by_link(name)
        return path

    def _reached_by_link(self, name: str) -> StorageError:
        return StorageError(
            f"{name} in {self.url} is reached by a link",
            expected="files and folders; only storage_url itself may be a link",
            remedy="put what it leads to in its place",
        )

    def _local_files(self, root: Path, folder: Path) -> Iterator[FileInfo]:
        if leads_elsewhere(root, folder):
            return
        for name, entry in entries(folder):
            with suppress(FileNotFoundError):  # it went meanwhile
                if entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    yield FileInfo((folder / name).relative_to(root).as_posix(), found.st_size, found.st_mtime_ns)

    def _check_same(self, name: str, tag: str | None) -> None:
        if tag is None:
            return
        with self.fs.open_input_file(self.path(name)) as now:
            if _tag(now) != tag:
                raise _ReplacedError(f"{name} in {self.url} was replaced while it was read", remedy="try again")

    def _info(self, name: str) -> Any:
        with explained(self.url, "look at", name):
            info = self.fs.get_file_info(self.path(name))
        if info.type == pafs.FileType.NotFound:
            self._check_bucket()
        return info

    def _file(self, name: str) -> Any:
        info = self._info(name)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "no such file in storage", name)
        return info

    def _upload(self, name: str, data: pa.Buffer) -> None:
        target = self.path(name)
        if self.fs.type_name not in _FLAT:
            self.fs.create_dir(target.rpartition("/")[0], recursive=True)
        # One write of the whole: a stream that is closed after half of it would publish that half.
        with self.fs.open_output_stream(target) as stream:
            stream.write(data)
        if (stored := self.fs.get_file_info(target).size) != len(data):
            self.fs.delete_file(target)
            raise StorageError(
                f"{name} was not stored whole in {self.url}",
                expected=f"{len(data)} bytes",
                got=f"{stored} bytes",
                remedy="try again; if it stays so, the object store is at fault",
            )

    def _check_bucket(self) -> None:
        """Tell "no such object" from "no such bucket", which S3 answers alike; asked once.

        Raises:
            StorageError: The bucket does not exist.
        """
        if self._bucket_seen:
            return
        bucket = self.root.partition("/")[0]
        with explained(self.url, "look at", ""):
            found = self.fs.get_file_info(bucket).type
        if found == pafs.FileType.NotFound:
            raise StorageError(
                f"there is no bucket {bucket}",
                expected="an existing bucket in storage_url",
                got=self.url,
                remedy="create the bucket, or correct storage_url (bucket, region, endpoint_override)",
            )
        self._bucket_seen = True


def open_fs(url: str) -> tuple[pafs.FileSystem, str]:
    """Return (file system, path) of a local path or URI.

    Raises:
        ConfigError: The scheme is unknown or the URI is malformed.
    """
    try:
        path = local_path(url)
    except ValueError as error:
        raise ConfigError("a path or URL names no place", got=str(error)) from None
    if path is not None:
        return pafs.LocalFileSystem(), str(path)
    if url.lower().startswith("s3://"):
        address = address_of(url)
        return address.open(), address.path
    try:
        fs, root = pafs.FileSystem.from_uri(_bounded(url))
    except (ValueError, OSError, ImportError, pa.ArrowException) as error:
        raise ConfigError(
            f"can't open {shown(url)}",
            expected="a path, or a URI of a file system that this installation of pyarrow knows",
            got=str(error),
        ) from None
    root = root.rstrip("/")
    if fs.type_name.startswith("py::"):  # opened by some other package that is installed, and not by pyarrow
        raise ConfigError(
            f"can't open {shown(url)}",
            expected="a path, or a URI of a file system that pyarrow itself knows",
            got=fs.type_name,
            remedy="copy the files to one",
        )
    if fs.type_name == "mock" or (fs.type_name in _FLAT and not root):  # the first is memory: nothing of it would stay
        raise ConfigError(f"can't open {shown(url)}", expected="a bucket or folder that keeps what is written")
    return fs, root


def _bounded(url: str) -> str:
    """Return a URL with a limit to retries where its client has none that anyone would wait for (Google's)."""
    if not url.lower().startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={RETRY_SECONDS}"


def _is_unicode(name: str) -> bool:
    """Return whether a file's name, of which Python shows other bytes as halves of surrogate pairs, is UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _tag(file: Any) -> str:
    return str(file.metadata()["ETag"], "ascii")


def _described(info: Any, name: str) -> FileInfo:
    return FileInfo(name, int(info.size), int(info.mtime_ns or 0))
