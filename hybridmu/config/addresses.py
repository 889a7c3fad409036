"""Addresses: paths of this machine, taken as they are, and URLs.

`exp#1`, `run%20x` and `C:\\data` are names of folders. A text is a URL only where it begins with SCHEME://; a path that
were parsed as one would lose what follows `#` or `?`, and two systems would share a folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hybridmu.types.text import is_plain

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# One or no slash after them is a slip of the pen, and no folder is called so.
_SLIPS = re.compile(r"(file|s3|gs|gcs|hdfs|viewfs|abfss?|https?|postgres(?:ql)?|sqlite):", re.IGNORECASE)
SQLITE = "sqlite:///"
# Bytes of a path and of one name in it; no usual file system of Linux takes more.
_PATH_BYTES, _NAME_BYTES = 4095, 255


def is_url(text: str) -> bool:
    """Return whether a text is a URL and no path."""
    return _URL.match(text) is not None


def local_path(text: str) -> Path | None:
    """Return the absolute path that a text names on this machine; None for a URL of something else.

    Args:
        text: A path, taken as it is but for `~` at its beginning, or a `file://` URL, whose percent signs are decoded.

    Raises:
        ValueError: It names no place.
    """
    if not text.strip() or not is_plain(text):
        raise ValueError("an address is one line of text, not empty, without control characters")
    if not is_url(text):
        if slip := _SLIPS.match(text):
            raise ValueError(f"{text!r} is neither a URL nor a path: write {slip[1].lower()}://…, or ./{text}")
        return whole_path(text)
    try:
        parts = urlsplit(text)
    except ValueError as error:  # such as a bracket that is never closed
        raise ValueError(f"{shown(text)!r} is not a URL: {error}") from None
    if not text.lower().startswith("file://"):
        if "#" in text:
            raise ValueError(f"what follows # in the URL {shown(text)!r} would be lost; write %23")
        return None
    if parts.netloc not in {"", "localhost"} or "#" in text or "?" in text or not parts.path.startswith("/"):
        raise ValueError(
            f"{text!r} is not a file URL: write file:///PATH with %23 for # and %3F for ?, or the plain path"
        )
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError:
        path = ""
    if not path or not is_plain(path):  # a replacement would be one name for several folders
        raise ValueError(f"the percent signs in {text!r} do not stand for printable UTF-8")
    return checked_path(Path(path))


def database_address(url: str) -> str:
    """Return a database's URL as it means the same in every folder: the path of an SQLite file is made absolute.

    Args:
        url: SQLAlchemy URL. What follows `sqlite:///` is a plain path, taken as it is.

    Raises:
        ValueError: The path names no place.
    """
    path = sqlite_path(url)
    if not path or path == ":memory:":
        return url  # refused where it is opened, with what else is no database
    return f"{SQLITE}{whole_path(path)}"


def sqlite_path(url: str) -> str | None:
    """Return the path in an SQLite URL, taken as it is; None for another database."""
    return url.removeprefix(SQLITE) if url.startswith(SQLITE) else None


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or leads into it: by its name, by links, or because both are one place.

    Args:
        path: It may be missing, and a link.
        folder: It may be missing, and a link.
    """
    root = Path(os.path.realpath(folder))
    whole = Path(os.path.abspath(path))  # not through links: what is reached by a link in the folder lies in it too
    for part in (whole, *whole.parents):
        if Path(os.path.realpath(part.parent), part.name).is_relative_to(root) or _same(part, root):
            return True
    return Path(os.path.realpath(whole)).is_relative_to(root)


def shown(url: str) -> str:
    """Return a URL for a message: without what may be a password."""
    return re.sub(r"//.*@", "//…@", url)  # up to the last one: a password may hold a slash or an @


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths are one place under whatever names: a bind mount, or other capital letters."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def whole_path(text: str) -> Path:
    """Return the absolute path of a plain path, with `~` at its beginning resolved.

    Raises:
        ValueError: There is no such user, or no file system takes a path of this length.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text[:100]!r} can't be expanded: {error}") from None
    return checked_path(path.absolute())


def checked_path(path: Path) -> Path:
    """Return a path that a file system can hold.

    Raises:
        ValueError: It, or a name in it, is too long; what would be tried with it has errors that name no key.
    """
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise ValueError(f"the path {str(path)[:60]!r}… is longer than {_PATH_BYTES} bytes")
    if longest := next((name for name in path.parts if len(os.fsencode(name)) > _NAME_BYTES), None):
        raise ValueError(f"the path has a name of more than {_NAME_BYTES} bytes: {longest[:60]!r}…")
    return path
