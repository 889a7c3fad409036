"""Walk through a folder of this machine; symbolic links are seen, and never followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (name with `/`, entry) of everything below a folder that is no folder.

    Args:
        folder: Where to begin, itself perhaps a link; nothing is yielded when it is not there.

    Yields:
        Files, links, pipes and the like.

    Raises:
        PermissionError: A folder can't be looked into.
    """
    try:
        with os.scandir(folder) as found:
            inner = list(found)
    except FileNotFoundError:  # it went meanwhile
        return
    except PermissionError:
        if folder.name == "lost+found":  # the file system's own, where storage is a whole disk
            return
        raise
    for entry in inner:
        if entry.is_dir(follow_symlinks=False):
            yield from ((f"{entry.name}/{name}", deeper) for name, deeper in entries(Path(entry.path)))
        else:
            yield entry.name, entry


def leads_elsewhere(root: Path, folder: Path) -> bool:
    """Return whether a folder below a root is reached by a link; the root itself may be one."""
    inner = folder.relative_to(root).parts
    return any(root.joinpath(*inner[: depth + 1]).is_symlink() for depth in range(len(inner)))
