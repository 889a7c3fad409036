"""Meanings of settings, read from the `Attributes` of their class's docstring."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

_ATTRIBUTE = re.compile(r"    (\w+): ?(.*)")
_TITLE = re.compile(r"\w+:")


class Meanings(NamedTuple):
    """What a docstring says.

    Attributes:
        about: Its text before the first titled part, without line breaks inside a paragraph.
        attributes: Attribute → what it means, in one line.
    """

    about: str
    attributes: dict[str, str]


def meanings(model: type[Any]) -> Meanings:
    """Return what the docstring of a class says of it and of its attributes.

    Args:
        model: The class. One without a docstring, as under `python -OO`, has no meanings.

    Example:
        >>> class Size:
        ...     '''A size.
        ...
        ...     Attributes:
        ...         height: In metres,
        ...             without shoes.
        ...     '''
        >>> meanings(Size)
        Meanings(about='A size.', attributes={'height': 'In metres, without shoes.'})
    """
    about: list[str] = []
    found: dict[str, str] = {}
    part = name = ""
    for line in inspect.cleandoc(model.__doc__ or "").splitlines():
        if _TITLE.fullmatch(line):
            part = line
        elif not part:
            about.append(line)
        elif part == "Attributes:":
            if started := _ATTRIBUTE.fullmatch(line):
                name, found[started[1]] = started[1], started[2]
            elif line.strip():
                found[name] += f" {line.strip()}"
    paragraphs = "\n".join(about).strip().split("\n\n")
    return Meanings("\n\n".join(each.replace("\n", " ") for each in paragraphs), found)
