"""Files of this machine, written so that a crash at any moment leaves the old content or the new, and nothing else."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from hybridmu.faults import reach

# Ends the name of a file that is being written.
TEMPORARY = ".tmp"


def write(target: Path, data: bytes) -> None:
    """Write a whole file durably: temporary name, fsync, rename, fsync of the folder.

    Args:
        target: Replaced if it is there; its folders are made.
        data: The content.
    """
    make_folder(target.parent)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            reach("file.opened")
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reach("file.written")
        temporary.replace(target)
        reach("file.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def move(source: Path, target: Path) -> None:
    """Give a finished file of the same file system its place, durably.

    Args:
        source: Gone afterwards.
        target: Replaced if it is there; its folders are made.
    """
    make_folder(target.parent)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    reach("file.move")
    source.replace(target)
    reach("file.moved")
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder with all that is above it, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
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
