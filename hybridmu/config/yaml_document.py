"""YAML documents, read without YAML's silent choices: keys given twice, numbers that were meant as text.

YAML 1.1 reads `010` as 8, `12:30:00` as 45000 and `1e-3` as text, and keeps the last of two equal keys. Here the first
two are errors, `1e-3` is a number as in YAML 1.2, and a key has one value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hybridmu.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_MERGE, _TEXT = f"{_TAG}merge", f"{_TAG}str"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?")
_MOST_VALUES = 100_000  # aliases of aliases of aliases would fill memory


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with the numbers of YAML 1.2 that 1.1 takes for text."""


_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789"))


def read_document(path: str | Path) -> Any:
    """Return what a YAML file holds, as plain data.

    Args:
        path: The file.

    Raises:
        ConfigError: It can't be read, is not YAML, or says something twice or in a form that is read as another value.
    """
    if not isinstance(path, (str, Path)):
        raise ConfigError(
            "the configuration is not a path", expected="the path of a YAML file", got=type(path).__name__
        )
    try:
        loader = _Loader(Path(path).read_bytes())
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty", expected="YAML keys such as data:, storage_url:")
        _check(str(path), node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", got=" ".join(str(error).split())) from None
    except OSError as error:
        got, remedy = error.strerror or str(error), "name one with -c FILE, or write one: `hybridmu init TABLE`"
        raise ConfigError(f"can't read the configuration file {path}", got=got, remedy=remedy) from None
    except ValueError as error:  # a path with NUL; a date of a 13th month, a number of 5,000 digits
        raise ConfigError(f"can't read the configuration file {str(path)!a}", got=str(error)[:200]) from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None


def _check(path: str, root: yaml.Node) -> None:
    """Refuse what would be read as something else than its writer meant.

    Raises:
        ConfigError: With the lines.
    """
    for count, (where, node) in enumerate(_nodes(path, root)):
        if count >= _MOST_VALUES:
            raise ConfigError(f"{path} holds too many values", expected=f"at most {_MOST_VALUES}, aliases written out")
        if isinstance(node, yaml.MappingNode):
            _check_keys(path, where, node)
        elif isinstance(node, yaml.ScalarNode):
            _check_number(path, where, node)


def _nodes(
    path: str, node: yaml.Node, where: tuple[str, ...] = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[str, yaml.Node]]:
    """Yield every value with the keys that lead to it, aliases written out.

    Raises:
        ConfigError: An alias lies within what it stands for.
    """
    if id(node) in above:
        raise ConfigError(f"line {_line(node)} of {path} contains itself", remedy="write the value out")
    yield ".".join(where), node
    inside = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(path, value, (*where, str(key.value)), inside)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _nodes(path, value, (*where, str(place)), inside)


def _check_keys(path: str, where: str, node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = _line(key)
        if key.tag not in {_TEXT, _MERGE}:
            what = f"`{key.value}`" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise ConfigError(
                f"line {line} of {path} has a key that YAML does not read as text",
                expected="text",
                got=f"{what}, read as {key.tag.removeprefix(_TAG)}",
                remedy="put it in quotes",
            )
        if key.value in seen:
            name = f"{where}.{key.value}" if where else key.value
            raise ConfigError(
                f"{path} names {name} twice (lines {seen[key.value]} and {line})",
                remedy="put both under one key: YAML would drop the first",
            )
        seen[key.value] = line


def _check_number(path: str, where: str, node: yaml.ScalarNode) -> None:
    # In quotes it is text, which has no such tag, unless the document itself says that it is a number: !!int "010".
    text = node.value
    if node.tag in {f"{_TAG}int", f"{_TAG}float"} and (_OCTAL.fullmatch(text) or _SEXAGESIMAL.fullmatch(text)):
        what = "base 60" if ":" in text else "base 8"
        raise ConfigError(
            f"line {_line(node)} of {path} has a number that YAML reads in {what}",
            expected="a number in base 10, or text in quotes",
            got=f"{where}: {text}",
        )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
