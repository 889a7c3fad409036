"""Exceptions of the user's code in words: type, text, file and line."""

from __future__ import annotations

import site
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from hybridmu.errors import HybridMUError, UserExitError

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).resolve().parent
_PLACE = "raised at "
_LONGEST = 1_000


def installed(path: Path) -> bool:
    """Return whether a file lies where packages and the standard library are installed."""
    roots = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    return any(path.resolve().is_relative_to(Path(root).resolve()) for root in roots)


@contextmanager
def contained() -> Iterator[None]:
    """Keep user code from ending this process: what it raises outside of `Exception` becomes an error like others.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: As it came: it is the person at the keyboard who wants the process to end.
        UserExitError: In place of SystemExit and its like.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UserExitError(
            "the task's code raised what ends a process",
            expected="an exception derived from Exception",
            got=told(error),
            remedy="no sys.exit() in a task",
        ) from error


def kind(error: Exception) -> str:
    """Return the name of an exception's class, for those who must not read its text: a row may stand in it."""
    raised = error.__cause__ if isinstance(error, UserExitError) else None
    return type(raised or error).__name__


def told(error: BaseException) -> str:
    """Return what an exception says: `KeyError: 'gain' (nets.py:6)`; one of ours speaks for itself."""
    if isinstance(error, UserExitError):
        return error.got
    if isinstance(error, HybridMUError):
        return str(error)
    name, text, (where, _, line) = type(error).__name__, _text(error), _place(error).partition(": ")
    text = text or line  # an assertion, most often: its line says what did not hold
    return name + (f": {text}" if text else "") + (f" ({where})" if where else "")


def place(error: BaseException) -> str:
    """Return `file:line` of the user's code that raised an exception, or of what raised it; empty when unknown."""
    return _place(error).partition(": ")[0]


def placed(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose exceptions say where they were raised, also in another process: tracebacks stay here."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with contained():
                return function(*args, **kwargs)
        except HybridMUError:
            raise
        except Exception as error:
            error.add_note(f"{_PLACE}{_place(error)}")
            raise

    return run


def _text(error: BaseException) -> str:
    """Return an exception's own words, as a database and a log can hold them.

    Raises:
        KeyboardInterrupt: As it came.
    """
    try:
        text = str(error).strip()
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # a class of the user's
        return f"its text can't be read: {type(broken).__name__}"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


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
