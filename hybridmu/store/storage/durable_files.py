"""Files of this machine, written so that a crash at any moment leaves the old content or the new, and nothing else."""

from __future__ import annotations

import errno
import os
import re
import uuid
from pathlib import Path

from hybridmu.faults import reach
from hybridmu.store.storage.file_modes import PRIVATE, Modes

# Ends the name of a file that is being written; other files of this ending are somebody else's.
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


def temporary_name(name: str) -> str:
    """Return a new name for a file that is being written and gets its own in the end."""
    return f"{name}.{uuid.uuid4().hex}.tmp"


def is_temporary(name: str) -> bool:
    """Return whether a name is one of `temporary_name`."""
    return _TEMPORARY.fullmatch(name[-_TEMPORARY_LENGTH:]) is not None


_TEMPORARY_LENGTH = len(temporary_name(""))


def write(target: Path, data: bytes, modes: Modes = PRIVATE) -> None:
    """Write a whole file durably: temporary name, fsync, rename, fsync of the folder.

    Args:
        target: Replaced if it is there; its folders are made.
        data: The content.
        modes: Who may read it, whatever the umask.
    """
    make_folder(target.parent, modes)
    temporary = target.with_name(temporary_name(target.name))
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE.file), "wb") as file:
            reach("file.opened")
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), modes.file)
            os.fsync(file.fileno())
        reach("file.written")
        temporary.replace(target)
        reach("file.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def move(source: Path, target: Path, modes: Modes = PRIVATE) -> None:
    """Give a finished file of the same file system its place, durably.

    Args:
        source: Gone afterwards.
        target: Replaced if it is there; its folders are made.
        modes: Who may read it, whatever the umask.
    """
    make_folder(target.parent, modes)
    with source.open("rb") as file:
        os.fchmod(file.fileno(), modes.file)
        os.fsync(file.fileno())
    reach("file.move")
    source.replace(target)
    reach("file.moved")
    sync_folder(target.parent)


def make_folder(folder: Path, modes: Modes = PRIVATE) -> None:
    """Make a folder with all that is above it, durably.

    Args:
        folder: Which.
        modes: Who may look into those that are made, whatever the umask.

    Raises:
        FileExistsError: A file is where a folder should be.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        try:
            made.mkdir(mode=PRIVATE.folder)
            made.chmod(modes.folder)
        except FileExistsError:  # another process made it meanwhile
            if not made.is_dir():
                raise
            continue
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make durable what was added to, renamed in or removed from a folder.

    Raises:
        OSError: The disk refused.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems keep folders durable by themselves
            raise
    finally:
        os.close(handle)
