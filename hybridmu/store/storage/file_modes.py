"""Permissions of the files that this system writes on a local disk, whatever the umask of its processes."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Modes:
    """Permission bits.

    Attributes:
        folder: Of folders.
        file: Of files.
    """

    folder: int
    file: int


PRIVATE = Modes(0o700, 0o600)
_KNOWN = {"private": PRIVATE, "group-read": Modes(0o750, 0o640), "group": Modes(0o770, 0o660)}


def modes_of(name: str) -> Modes:
    """Return the bits of a `storage_mode`."""
    return _KNOWN[name]


def create(path: Path, mode: int = PRIVATE.file) -> None:
    """Make an empty file for somebody else to fill, if it is not there; nobody else can open it in between.

    Args:
        path: Its folder is there.
        mode: Its bits.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, PRIVATE.file)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def apply_modes(root: Path, modes: Modes) -> None:
    """Give a folder and all that is in it these bits; links are not followed, what others own stays as it is.

    Args:
        root: The folder.
        modes: The bits.
    """
    with suppress(PermissionError):
        root.chmod(modes.folder)  # first: it closes the way to all the rest
    for folder, folders, files in os.walk(root):
        for names, mode in ((folders, modes.folder), (files, modes.file)):
            for name in names:
                path = Path(folder, name)
                with suppress(PermissionError, FileNotFoundError):
                    found = path.lstat().st_mode  # no link, pipe or device gets permissions from us
                    if (stat.S_ISREG(found) or stat.S_ISDIR(found)) and found & 0o777 != mode:
                        path.chmod(mode)
