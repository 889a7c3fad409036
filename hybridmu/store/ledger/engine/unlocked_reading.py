"""Reading of an SQLite file beside its connections, without letting go of their locks.

Closing any descriptor of a file drops every POSIX lock that the process holds on it, from wherever it was taken
(https://sqlite.org/howtocorrupt.html, 2.2). SQLite never notices: the next process that closes its last connection
finds nobody else, and deletes the log into which this one goes on writing. So a descriptor is opened once per file, and
stays open for as long as the process lives.
"""

from __future__ import annotations

import os
from pathlib import Path

_OPEN: dict[tuple[int, int], int] = {}  # device and number of the file → descriptor


class UnlockedFile:
    """An SQLite file from its first byte on; there is nothing to close.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: It is not there.
    """

    def __init__(self, path: Path) -> None:
        found = path.stat()
        key = found.st_dev, found.st_ino
        if key not in _OPEN:
            _OPEN[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptor, self._place = _OPEN[key], 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        data = os.pread(self._descriptor, size, self._place)
        self._place += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._place
