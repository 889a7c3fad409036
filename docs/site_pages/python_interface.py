"""Reference of the Python interface: which public names mkdocstrings shows, and under which headings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType

import hybridmu
import hybridmu.estimator
import hybridmu.plugins
import hybridmu.task

_START = """# Python

The public names, as [the page of public interfaces](../public-api.md) promises them. `hybridmu.__version__` is the
installed version.
"""
# Their keys have a page of their own.
_WITHOUT_MEMBERS = {"hybridmu.Settings"}


def page() -> str:
    """Return the page in Markdown."""
    parts = [_START, "## hybridmu", *_module(hybridmu)]
    shown = ""
    parts.append("## Methods of System")
    for name, method in _methods():
        if method.__module__ not in {shown, hybridmu.System.__module__}:
            shown = method.__module__
            parts.append(f"### {_title(method)}")
        target = f"{method.__module__}.{method.__qualname__}"
        parts.append(_shown(target, f"System.{name}", level=4 if shown else 3, anchor=f"hybridmu.System.{name}"))
    for module in (hybridmu.estimator, hybridmu.task, hybridmu.plugins):
        parts += [f"## {module.__name__}", inspect.getdoc(module) or "", *_module(module)]
    return "\n\n".join(parts) + "\n"


def _module(module: ModuleType) -> Iterator[str]:
    for name in module.__all__:
        full = f"{module.__name__}.{name}"
        yield _shown(full, name, level=3, members=full not in _WITHOUT_MEMBERS and full != "hybridmu.System")


def _methods() -> list[tuple[str, FunctionType]]:
    """Return the public methods of `System`, in the order of its class."""
    found = dict(inspect.getmembers(hybridmu.System, inspect.isfunction))
    return [(name, found[name]) for name in vars(hybridmu.System) if name in found and not name.startswith("_")]


def _title(method: FunctionType) -> str:
    """Return what the module of a method is about: its docstring up to the first comma, colon or full stop."""
    return re.split(r"[,:.]", inspect.getdoc(inspect.getmodule(method)) or "")[0]


def _shown(target: str, heading: str, *, level: int, members: bool = True, anchor: str = "") -> str:
    lines = [
        f"::: {target}",
        "    options:",
        f"      heading: {heading}",
        f"      toc_label: {heading}",
        f"      heading_level: {level}",
        *([] if members else ["      members: false"]),
    ]
    mark = f'<a id="{anchor}"></a>\n\n' if anchor else ""
    return mark + "\n".join(lines)
