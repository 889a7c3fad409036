"""Top group of commands, each of which is imported when it is called; usage errors as JSON where results are."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer.main
from typer.core import TyperCommand, TyperGroup

from hybridmu.cli.interrupts import importing
from hybridmu.cli.verbs import VERBS

_UsageError: Any = typer.BadParameter.__base__  # the only public name of this family


class LateCommand(TyperCommand):
    """A command in the list of commands; the real one is imported for its own options and its work.

    Args:
        name: As it is called.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, help=VERBS[name].line)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of a call of the real command."""
        with importing("--json" in args):
            real = self.real()
        return real.make_context(info_name, args, parent, **extra)

    def real(self) -> Any:
        """Return the real command."""
        verb = VERBS[str(self.name)]
        found = getattr(importlib.import_module(f"hybridmu.cli.{verb.module}"), verb.name)
        holder = typer.Typer(add_completion=False)
        holder.callback()(_nothing)  # with it, one command alone is in a group as well
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=self.name)
        else:
            holder.command(self.name)(found)
        group: Any = typer.main.get_command(holder)
        return group.commands[self.name]


class CommandGroup(TyperGroup):
    """All commands; with `--json` a usage error is one JSON document as well.

    Args:
        options: As of Typer's group.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"commands": {name: LateCommand(name) for name in VERBS}}))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of a call, its own options parsed."""
        as_json = "--json" in args
        with _usage(as_json):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[__name__] = as_json
        return context

    def invoke(self, ctx: Any) -> Any:
        """Return what the verb returns, after parsing its options."""
        with _usage(ctx.meta[__name__]):
            return super().invoke(ctx)


@contextmanager
def _usage(as_json: bool) -> Iterator[None]:
    # Typer writes words to standard error and exits with code 2; a reader of standard output gets the same.
    try:
        yield
    except _UsageError as error:
        if as_json:
            remedy = f"see `{ctx.command_path} --help`" if (ctx := getattr(error, "ctx", None)) else ""
            document = {
                "error": "UsageError",
                "what": error.format_message(),
                "expected": "",
                "got": "",
                "remedy": remedy,
            }
            print(json.dumps(document), flush=True)
        raise


def _nothing() -> None:
    pass
