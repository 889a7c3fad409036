"""The command line: `hybridmu VERB -c CONFIG [--json]`.

Results go to standard output (one JSON document with `--json`), progress and errors to standard error. The exit
code is 0 only on success.
"""

from __future__ import annotations

from typing import Annotated

import typer

import hybridmu
from hybridmu.cli.command_group import CommandGroup
from hybridmu.cli.interrupts import keep_interrupts

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show the values of variables, ids among them
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(hybridmu.__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train on shards, forget on demand, prove it."""


def main() -> None:
    """Run the command line; the entry point of the jobs."""
    keep_interrupts()
    app()
