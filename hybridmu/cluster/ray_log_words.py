"""Words that stand in Ray's logs in any case, and which an id may be the same as.

A line that Ray or this program wrote is made of the text of their programs, a time stamp, and values that come from
outside. An id found there that is a piece of that text can't be told from it; any other came from outside. What is no
such line, as what a task prints, has no words of that kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from hybridmu.core.proof.byte_search import Needles

_STAMP = rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[,.]\d+)?"
_STAMPS = re.compile(_STAMP)
# `[stamp I pid …` of Ray's C++, `stamp INFO …` of its Python and of ours, as JSON too, `INFO stamp …` of Serve, and
# what stands at the beginning of a worker's output.
_OWN_LINE = re.compile(rb'(?:\[|[A-Z]{4,8} |\{"asctime": ")?' + _STAMP + rb"|:(?:job_id|actor_name|task_name):")
_COMPONENTS = re.compile(
    r"metrics/.+|logs/(?:(?:raylet|gcs_server|monitor|log_monitor|dashboard|runtime_env|python-core-|debug_state)[^/]*"
    r"|(?:events|export_events|serve)/.+)"
)
_NO_TEXT = {"__pycache__", "jars", "client", "rllib"}  # copies, and what writes no log here


def needles_beside(words: Iterable[bytes], needles: Collection[bytes]) -> list[bytes]:
    """Return the needles that are none of these words, nor a part of one; a digest is none but by a miracle.

    Example:
        >>> needles_beside([b"/home/platform-team"], [b"platform-team", b"a-person-77"])
        [b'a-person-77']
    """
    said = b"\n".join(words).lower()
    return [needle for needle in needles if needle.lower() not in said]


def is_component(file: PurePosixPath) -> bool:
    """Return whether a file is one of Ray's own processes, in whose lines a task's output never stands.

    Args:
        file: Its path within the session's folder.

    Example:
        >>> [is_component(PurePosixPath("logs") / name) for name in ("raylet.out", "worker-1-2-3.out")]
        [True, False]
    """
    return _COMPONENTS.fullmatch(file.as_posix()) is not None


def traces(lines: Iterable[bytes], ids: Collection[bytes], own: bool, programs: Collection[Path]) -> set[bytes]:
    """Return the ids that a log names otherwise than by words of the programs that wrote it.

    Args:
        lines: All lines of the log.
        ids: What was found in it, as bytes. What holds a line's end is no word.
        own: Whether these programs wrote every line, or only those that begin as theirs do.
        programs: Folders of the programs.
    """
    foreign = {one for one in ids if b"\n" in one}
    doubtful: set[bytes] = set()
    for line in lines:
        if named := {one for one in ids if one in line}:
            if own or _OWN_LINE.match(line):
                text = _STAMPS.sub(b"", line)
                doubtful |= {one for one in named if one in text}
            else:
                foreign |= named
    doubtful -= foreign
    return foreign | (doubtful - _said(doubtful, programs))


def _said(ids: Collection[bytes], programs: Collection[Path]) -> set[bytes]:
    """Return the ids that stand in the text of programs."""
    found: set[bytes] = set()
    wanted = Needles(ids)
    for file in _texts(programs) if ids else ():
        with file.open("rb") as stream:
            for piece in wanted.in_stream(stream.read):
                found |= piece
        if len(found) == len(ids):
            break
    return found


def _texts(programs: Collection[Path]) -> Iterator[Path]:
    for folder in programs:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not _NO_TEXT & set(file.relative_to(folder).parts):
                yield file
