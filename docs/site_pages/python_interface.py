"""Reference of the Python interface: which public names mkdocstrings shows, and under which headings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import hybridmu
import hybridmu.estimator
import hybridmu.plugins
import hybridmu.task

_START = """# Python

The public names, as [the page of public interfaces](../public-api.md) promises them. `hybridmu.__version__` is the
installed version.
"""
_MORE = (hybridmu.estimator, hybridmu.task, hybridmu.plugins)
# Their keys have a page of their own.
_WITHOUT_MEMBERS = {"hybridmu.Settings"}


def public_names() -> list[str]:
    """Return the full names of everything public, the methods of `System` among them."""
    modules = (hybridmu, *_MORE)
    names = [f"{module.__name__}.{name}" for module in modules for name in module.__all__]
    return names + [f"hybridmu.System.{name}" for name, _ in _methods()]


def page() -> str:
    """Return the page in Markdown."""
    parts = [_START, "## hybridmu", *_module(hybridmu)]
    shown = ""
    parts.append("## Methods of System")
    for name, method in _methods():
        *_, part, _ = f"{method.__module__}.{method.__qualname__}".split(".")
        if part not in {shown, "System"}:
            shown = part
            parts.append(f"### {_title(method)}")
        target = f"{method.__module__}.{method.__qualname__}"
        parts.append(_shown(target, f"System.{name}", level=4, anchor=f"hybridmu.System.{name}"))
    for module in _MORE:
        parts += [f"## {module.__name__}", inspect.getdoc(module) or "", *_module(module)]
    return "\n\n".join(parts) + "\n"


def _module(module: ModuleType) -> Iterator[str]:
    for name in module.__all__:
        full = f"{module.__name__}.{name}"
        yield _shown(full, name, level=3, members=full not in _WITHOUT_MEMBERS and full != "hybridmu.System")


def _methods() -> list[tuple[str, object]]:
    """Return the public methods of `System`, in the order of its class."""
    found = dict(inspect.getmembers(hybridmu.System, inspect.isfunction))
    return [(name, found[name]) for name in vars(hybridmu.System) if name in found and not name.startswith("_")]


def _title(method: object) -> str:
    module = inspect.getmodule(method)
    return ((module and module.__doc__) or "").partition("\n")[0].partition(":")[0].partition(",")[0].rstrip(".")


def _shown(target: str, heading: str, *, level: int, members: bool = True, anchor: str = "") -> str:
    lines = [
        f"::: {target}",
        "    options:",
        f"      heading: {heading}",
        f"      toc_label: {heading}",
        f"      heading_level: {level}",
        *([] if members else ["      members: false"]),
    ]
    return ([f'<a id="{anchor}"></a>\n'] if anchor else [""])[0] + "\n" + "\n".join(lines)
