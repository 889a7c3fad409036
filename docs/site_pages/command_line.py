"""Reference of the command line, made of the Typer application."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from typer.cli import get_docs_for_click  # what `typer APP utils docs` prints

from hybridmu.cli.main import app
from site_pages.repository import pages_linked

_START = """# Command line

`hybridmu VERB -c CONFIG`. Results go to standard output, as one JSON document with `--json`; progress and errors go to
standard error. Exit codes: 0 success, 1 what was asked does not hold (a proof, an audit), 2 an error that the caller
can do something about, 130 interrupted.
"""


def group() -> Any:
    """Return the group of all commands, each with its own options."""
    found: Any = typer.main.get_command(app)
    found.commands = {name: command.real() for name, command in found.commands.items()}
    _shorten(found)
    return found


def page() -> str:
    """Return the page in Markdown: a part per verb, and one per command of a group of verbs."""
    command = group()
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command), name="hybridmu", title="hybridmu", indent=1)
    return pages_linked(f"{_START}\n{text}")


def _shorten(command: Any) -> None:
    """Give every command below this one a line for lists: the first paragraph of its help, whole."""
    for each in getattr(command, "commands", {}).values():
        each.short_help = inspect.cleandoc(each.help or "").partition("\n\n")[0].replace("\n", " ")
        _shorten(each)
