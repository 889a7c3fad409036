"""Exceptions of the user's code in words: type, text, file and line."""

from __future__ import annotations

import site
import sysconfig
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from hybridmu.errors import HybridMUError

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).resolve().parent
_PLACE = "raised at "


def installed(path: Path) -> bool:
    """Return whether a file lies where packages and the standard library are installed."""
    roots = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    return any(path.resolve().is_relative_to(Path(root).resolve()) for root in roots)


def told(error: BaseException) -> str:
    """Return what an exception says: `KeyError: 'gain' (nets.py:6)`; one of ours speaks for itself."""
    if isinstance(error, HybridMUError):
        return str(error)
    name, text, where = type(error).__name__, str(error).strip(), _place(error)
    if not text:  # an assertion, most often: its line says what did not hold
        text = where.partition(": ")[2]
    return f"{name}: {text} ({where.partition(': ')[0]})" if text else f"{name} ({where})" if where else name


def placed(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose exceptions say where they were raised, also in another process: tracebacks stay here."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HybridMUError:
            raise
        except Exception as error:
            error.add_note(f"{_PLACE}{_place(error)}")
            raise

    return run


def _place(error: BaseException) -> str:
    """Return `file:line: source` of the last frame in the user's files, or of the last one at all."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_PLACE):
            return str(note.removeprefix(_PLACE))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _ours(Path(frame.filename))]
    if not frames:
        return ""
    frame = (theirs or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line or ''}"


def _ours(path: Path) -> bool:
    return not path.exists() or path.resolve().is_relative_to(_PACKAGE) or installed(path)
