"""Files under `storage_url`: content-addressed blobs, and the map from lineage to exact results.

Two maps (never mixed): lineage key → blob hash, written for exact results only; blob hash → bytes. A write goes to
a temporary name, is flushed to disk, and is then renamed, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from urllib.parse import urlparse

import pyarrow.fs as pafs
import safetensors.torch

from hybridmu.core.model import State
from hybridmu.errors import ConfigError, CorruptBlobError


class Storage:
    """A folder on any `pyarrow.fs` file system.

    Args:
        url: Local path or URI.

    Raises:
        ConfigError: The file system is not known.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = open_fs(url)

    @property
    def local(self) -> Path | None:
        """Return the folder when storage is local."""
        return Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        """Return the full path of a file name relative to the root."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        return bool(self.fs.get_file_info(self.path(name)).type == pafs.FileType.File)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with self.fs.open_input_file(self.path(name)) as file:
            return bytes(file.read())

    def write(self, name: str, data: bytes) -> None:
        """Publish bytes under a name, all or nothing; an existing file is replaced."""
        target = self.path(name)
        if self.local is None:
            self.fs.create_dir(target.rpartition("/")[0], recursive=True)
            with self.fs.open_output_stream(target) as stream:  # object stores publish on close
                stream.write(data)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(f"{target}.{uuid.uuid4().hex}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def publish(self, source: Path, name: str) -> None:
        """Move a finished local file into storage under a name."""
        self.write(name, source.read_bytes()) if self.local is None else self._move(source, name)
        source.unlink(missing_ok=True)

    def _move(self, source: Path, name: str) -> None:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        if self.fs.get_file_info(self.path(name)).type == pafs.FileType.Directory:
            self.fs.delete_dir(self.path(name))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.exists(name):
            self.fs.delete_file(self.path(name))


def open_fs(url: str) -> tuple[pafs.FileSystem, str]:
    """Return (file system, path) of a local path or URI.

    Raises:
        ConfigError: The scheme is unknown or the URI is malformed.
    """
    if not urlparse(url).scheme:
        return pafs.LocalFileSystem(), str(Path(url).expanduser().absolute())
    try:
        fs, path = pafs.FileSystem.from_uri(url)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"can't open {url}", expected="a path or a URI that pyarrow.fs knows", got=str(error)
        ) from None
    return fs, path.rstrip("/")


class Blobs:
    """Content-addressed safetensors, and the lineage map of exact checkpoints.

    Args:
        storage: Where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, state: State) -> str:
        """Return the hash of a state, after storing it; the same content is written once."""
        data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        name = hashlib.blake2b(data, digest_size=24).hexdigest()
        if not self.storage.exists(_blob(name)):
            self.storage.write(_blob(name), data)
        return name

    def get(self, name: str) -> State:
        """Return a state.

        Args:
            name: Its hash.

        Returns:
            CPU tensors.

        Raises:
            CorruptBlobError: The file is missing, or its bytes do not match the hash.
        """
        try:
            data = self.storage.read(_blob(name))
        except FileNotFoundError:
            raise CorruptBlobError(f"blob {name[:12]}… is missing", remedy="retrain the shard that needs it") from None
        if hashlib.blake2b(data, digest_size=24).hexdigest() != name:
            raise CorruptBlobError(
                f"blob {name[:12]}… does not match its hash",
                got="changed or truncated bytes",
                remedy="it is never used; a retrain of its shard rebuilds it: restore the file from a backup, or run "
                "`hybridmu forget --strategy retrain` for any row of that shard",
            )
        return dict(safetensors.torch.load(data))

    def record(self, lineage_key: str, blob: str) -> None:
        """Say that an exact run of this lineage gave this blob."""
        self.storage.write(_lineage(lineage_key), blob.encode())

    def find(self, lineage_key: str) -> str | None:
        """Return the blob of an exact checkpoint, if it was ever made and its file is still there."""
        try:
            blob = self.storage.read(_lineage(lineage_key)).decode()
        except FileNotFoundError:
            return None
        return blob if self.storage.exists(_blob(blob)) else None

    def load(self, lineage_key: str) -> State | None:
        """Return the state of an exact checkpoint; a corrupted one is dropped, so that it is rebuilt."""
        blob = self.find(lineage_key)
        if blob is None:
            return None
        try:
            return self.get(blob)
        except CorruptBlobError:
            self.storage.delete(_lineage(lineage_key))
            self.storage.delete(_blob(blob))
            return None


def _blob(name: str) -> str:
    return f"blobs/{name[:2]}/{name}.safetensors"


def _lineage(key: str) -> str:
    return f"lineage/{key[:2]}/{key}"
