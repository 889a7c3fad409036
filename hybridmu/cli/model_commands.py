"""`hybridmu models …` and `reshard`: models over the same people, and successors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption, LocalOption, ReasonOption, YesOption
from hybridmu.cli.output import (
    emit,
    errors,
    operator,
    print_table,
    progress,
    tell,
    warn,
)
from hybridmu.cli.system_access import executor_named
from hybridmu.errors import ConfigError
from hybridmu.system.system import connect

app = typer.Typer(no_args_is_help=True, help="Linked models over the same people; see docs/models.md.")

OtherArgument = Annotated[Path, typer.Argument(help="Path of the other model's YAML configuration.")]


@app.command()
def link(other: OtherArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Let every deletion that one of two models accepts reach both, and all that they are linked with."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.link(config.load(other))
    emit(result, as_json, lambda: _listed(result))


@app.command("list")
def list_(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List this model and those that it is or was linked with."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.models()
    emit(result, as_json, lambda: _listed(result))


@app.command()
def retire(
    names: Annotated[list[str], typer.Argument(help="Names of the models, as `models list` shows them.")],
    reason: ReasonOption,
    config_file: ConfigOption,
    yes: YesOption = False,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost", help="End the links of models that are out of reach for good; none of their data is deleted."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Decommission models once their own requests are passed on; certificates and guards stay."""  # noqa: DOC501
    with errors(as_json):
        if not yes:
            what = "ends the links to" if lost else "deletes all data and weights of"
            raise ConfigError(f"this {what} {', '.join(names)} for good", remedy="add --yes to confirm")
        with connect(config.load(config_file), "local") as system:
            result = system.retire(*names, reason=reason, caller=operator(), lost=lost)

    def say() -> None:
        for done in result:
            kept = f"{done['files_deleted']} file(s) deleted, {done['certificates_kept']} certificate(s) kept"
            tell(f"{done['name']} is retired: {'its link has ended' if lost else kept}")

    emit(result, as_json, say)


def reshard(
    other: OtherArgument,
    config_file: ConfigOption,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Make a successor with other shards, slices, task or optimizer, from the live rows; repeat it after a crash."""
    with (
        errors(as_json, "what is done so far is kept, and the same command goes on from there"),
        connect(config.load(config_file), executor_named(local)) as system,
        progress("resharding") as watch,
    ):
        result = system.reshard(config.load(other), watch)

    def say() -> None:
        past = result["predecessor"]
        tell(f"version {result['version']} of the successor: {result['shards']} shard(s), {past['rows']} training rows")
        _listed(result["models"])
        tell(f"next: deploy {other} (`hybridmu run`, and what serves), then")
        tell(f"  hybridmu models retire {past['name']} -c {other} --reason 'resharded' --yes")

    emit(result, as_json, say)
    warn(result["warnings"])


def _listed(found: list[dict[str, Any]]) -> None:
    table = Table("model", "state", "version", "shards", "slices", "from", "not passed on", "reason")
    for row in found:
        cells = [row.get(name) for name in ("version", "shards", "slices", "predecessor", "undelivered", "reason")]
        name = f"{row['name']} (this one)" if row["this"] else row["name"]
        unsettled = not row["this"] and row["settled_at"] is None and row["state"] == "active"
        state = "active, not settled: link it again" if unsettled else row["state"]
        table.add_row(name, state, *("" if cell is None else str(cell) for cell in cells))
    print_table(table)
