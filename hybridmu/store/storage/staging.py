"""Folders for files in the making; those of a dead process are known by the lock that the kernel let go of."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybridmu.errors import StorageError

_LOCK = "in-use.lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def folder(root: Path, prefix: str) -> Iterator[Path]:
    """Make an empty folder, removed at the end; those that dead processes left are removed first.

    Args:
        root: Where; made if need be.
        prefix: Begins its name, and tells whose folders are swept.

    Yields:
        The folder.

    Raises:
        StorageError: There is no space, or no permission.
        OSError: Whatever else the caller met while it filled the folder.
    """  # noqa: DOC501 - a function makes the StorageError
    try:
        root.mkdir(parents=True, exist_ok=True)
        drop_stale(root, prefix)
        made = Path(tempfile.mkdtemp(dir=root, prefix=f"new-{prefix}"))  # swept only under its final name: locked
        lock = _open_lock(made)
        made = made.replace(root / made.name.removeprefix("new-"))
    except OSError as error:
        raise _refused(root, error) from error
    try:
        yield made
    except OSError as error:
        if error.errno in _FULL:
            raise _refused(root, error) from error
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def drop_stale(root: Path, prefix: str) -> int:
    """Remove the folders of processes that died.

    Args:
        root: Where they lie.
        prefix: Begins their names.

    Returns:
        How many there were.
    """
    dropped = 0
    for found in sorted(root.glob(f"{prefix}*")):
        if found.is_symlink() or not found.is_dir():
            continue  # not made here
        with suppress(OSError):  # at work, or its owner removed it meanwhile
            lock = _open_lock(found)
            try:
                shutil.rmtree(found)
                dropped += 1
            finally:
                os.close(lock)
    return dropped


def _open_lock(made: Path) -> int:
    handle = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _refused(root: Path, error: OSError) -> StorageError:
    return StorageError(
        f"can't stage files in {root}",
        expected="a writable folder with room for one copy of the tables",
        got=str(error),
        remedy="free space or give permission; storage that is not local stages in the folder that TMPDIR names",
    )
