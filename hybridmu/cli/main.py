"""The command line: `hybridmu VERB -c CONFIG [--json]`.

Results go to standard output (one JSON document with `--json`), progress and errors to standard error. The exit
code is 0 only on success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import hybridmu
from hybridmu.cli import (
    audit_commands,
    certificate_commands,
    dataset_commands,
    evaluation_command,
    key_commands,
    model_commands,
    operator_commands,
    request_commands,
    row_commands,
    server_commands,
    size_command,
    storage_commands,
    suggest_command,
    training_commands,
)
from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import CommandGroup, emit, err, errors, tell
from hybridmu.extras import extra

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show the values of variables, ids among them
)
for _command in (
    training_commands.train,
    training_commands.run,
    training_commands.verify,
    training_commands.predict,
    evaluation_command.evaluate,
    request_commands.plan,
    request_commands.forget,
    row_commands.ingest,
    row_commands.correct,
    row_commands.readmit,
    operator_commands.status,
    operator_commands.pause,
    operator_commands.resume,
    operator_commands.hold,
    operator_commands.holds,
    operator_commands.lift,
    audit_commands.audit,
    size_command.size,
    suggest_command.suggest,
    storage_commands.checkpoints,
    storage_commands.upgrade,
    storage_commands.decommission,
    model_commands.reshard,
    server_commands.api,
):
    app.command()(_command)
for _name, _group in {
    "data": dataset_commands.app,
    "requests": request_commands.app,
    "ingests": row_commands.ingests_app,
    "guard": row_commands.guard_app,
    "certificate": certificate_commands.app,
    "keys": key_commands.app,
    "tokens": server_commands.tokens_app,
    "models": model_commands.app,
    "ledger": storage_commands.ledger,
}.items():
    app.add_typer(_group, name=_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        tell(hybridmu.__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train on shards, forget on demand, prove it."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder of the report; its old content is removed.")] = Path(
        "runs/demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train, forget, prove and serve on real digits, and write a report."""  # noqa: DOC501
    with errors(as_json, "the same command begins anew"):
        with extra("datasets", "report", "serve"):
            from hybridmu.demo import run_demo  # starts a cluster; the other verbs do without its imports
        result = run_demo(output, err)
    emit(result, as_json, lambda: None)
    if not result["ok"]:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; the entry point of the jobs."""
    app()
