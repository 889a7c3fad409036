"""Refusals of the operating system or an object store, each as a case with a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hybridmu.errors import StorageError
from hybridmu.store.storage.s3 import explain

_CASES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left", "free space, lower checkpoints.budget_bytes, or move storage_url"),
    errno.EDQUOT: ("the quota is used up", "raise it, lower checkpoints.budget_bytes, or move storage_url"),
    errno.EFBIG: ("the file is larger than the limit", "raise the file size limit of this process (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "remount it writable, or name another storage_url"),
    errno.EACCES: ("permission is denied", "give this user read and write access to the folder"),
    errno.EPERM: ("permission is denied", "give this user read and write access to the folder"),
    errno.EIO: ("the device reports an error", "check the disk; what is damaged is found by its hash, never used"),
    errno.ENOTDIR: ("a file is where a folder should be", "move it away, or name another storage_url"),
    errno.EEXIST: ("a file is where a folder should be", "move it away, or name another storage_url"),
    errno.EISDIR: ("a folder is where a file should be", "move it away, or name another storage_url"),
    errno.ENAMETOOLONG: ("the path is too long", "name a shorter path"),
    errno.ENOENT: ("its folder vanished", "try again"),
}
_OTHER = ("an error was reported", "try again; if it stays so, check the disk or the object store")


@contextmanager
def explained(url: str, doing: str, name: str, *, missing: bool = False) -> Iterator[None]:
    """Turn every `OSError` inside into an error with a remedy.

    Args:
        url: Of storage.
        doing: A verb, for the message.
        name: Of the file, or empty.
        missing: Let a `FileNotFoundError` through.

    Raises:
        StorageError: Always, but for a missing file where `missing` lets that through.
    """  # noqa: DOC501 - the bare raise is that one
    try:
        yield
    except OSError as error:
        if missing and isinstance(error, FileNotFoundError):
            raise
        case, remedy = _CASES.get(error.errno or 0) or explain(str(error)) or _OTHER
        raise StorageError(
            f"can't {doing} {name or 'files'} in {url}: {case}",
            got=" ".join(str(error).split())[:500],
            remedy=remedy,
        ) from error
