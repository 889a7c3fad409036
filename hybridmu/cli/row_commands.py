"""`hybridmu ingest`, `correct`, `readmit`, `ingests …`, `guard …`: new rows, and the guard against forgotten ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu.cli.options import (
    CallerOption,
    ConfigOption,
    GroupOption,
    IdOption,
    JsonOption,
    KeyOption,
    LocalOption,
    ReasonOption,
)
from hybridmu.cli.output import COMMITTED, emit, operator, print_table, tell
from hybridmu.cli.system_access import open_system
from hybridmu.types import IngestState

ingests_app = typer.Typer(no_args_is_help=True, help="Ingestions of new rows: finished and waiting.")
guard_app = typer.Typer(
    no_args_is_help=True, help="Guard of forgotten ids and groups, which must not come in again; see docs/keys.md."
)

FileArgument = Annotated[
    str, typer.Argument(help="Path or URI of a file in Parquet, Arrow IPC or CSV, or of a folder of them.")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until every answer knows the rows.")]


def ingest(
    file: FileArgument,
    config_file: ConfigOption,
    slices: Annotated[int, typer.Option("--slices", help="Number of slices for the new rows.")] = 1,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Epochs of each new slice; those of the last slice by default.")
    ] = None,
    key: KeyOption = None,
    caller: CallerOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Commit new rows for a trained system; only their own slices are trained. Forgotten rows are skipped."""
    who = operator() if caller is None else caller
    with open_system(config_file, as_json, local=local, interrupted=COMMITTED) as system:
        result = system.ingest(file, slices=slices, epochs=epochs, key=key, caller=who, wait=wait)
    emit(result, as_json, lambda: _came_in(result))


def correct(
    file: FileArgument,
    config_file: ConfigOption,
    key: KeyOption = None,
    caller: CallerOption = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="Seconds until the purge of the old rows must finish."),
    ] = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Replace rows by corrected ones with the same ids: the old rows are forgotten and purged, then the new come in."""
    who = operator() if caller is None else caller
    with open_system(config_file, as_json, local=local, interrupted=COMMITTED) as system:
        result = system.correct(file, key=key, caller=who, deadline_seconds=deadline, wait=wait)
    emit(result, as_json, lambda: _corrected(result))


def readmit(
    reason: ReasonOption,
    config_file: ConfigOption,
    id_: IdOption = None,
    group: GroupOption = None,
    caller: CallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let forgotten ids and groups come in again with later data; the rows themselves do not come back by this."""
    who = operator() if caller is None else caller
    with open_system(config_file, as_json, interrupted=COMMITTED) as system:
        result = system.readmit(ids=id_ or (), groups=group or (), reason=reason, caller=who)
    emit(result, as_json, lambda: tell(f"{result['readmitted']} entries of the guard were removed"))


@ingests_app.command("list")
def ingests_list(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List ingestions in the order in which they were accepted."""
    with open_system(config_file, as_json, interrupted=COMMITTED) as system:
        found = system.ingests()
    emit(found, as_json, lambda: _listed(found))


@guard_app.command("accept-loss")
def accept_loss(
    key_id: Annotated[str, typer.Argument(help="Id of the lost guard key.")],
    reason: ReasonOption,
    config_file: ConfigOption,
    caller: CallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up what a lost guard key remembered, so that data can come in again."""
    who = operator() if caller is None else caller
    with open_system(config_file, as_json, interrupted=COMMITTED) as system:
        result = system.accept_guard_loss(key_id, reason=reason, caller=who)
    emit(result, as_json, lambda: tell(f"{result['given_up']} entries of guard key {key_id} were given up"))


def _came_in(new: dict[str, Any]) -> None:
    tell(
        f"{new['ingest_id']} {new['state']}: {new['rows']} row(s) in {new['slices']} slice(s) of {new['epochs']} "
        f"epoch(s), {new['skipped']} skipped because they are forgotten"
    )
    if new["state"] == IngestState.RECEIVED:
        tell("committed; `hybridmu run` brings the rows in, or repeat the command with --wait and its --key")
    elif new["version"] is not None:
        tell(f"known since version {new['version']}")


def _corrected(report: dict[str, Any]) -> None:
    new = report["ingestion"]
    tell(f"{report['request_id']} {report['state']}: {report['keys']} row(s) are forgotten")
    tell(f"{new['ingest_id']} {new['state']}: {new['rows']} corrected row(s)")
    if new["state"] == IngestState.RECEIVED:
        tell("the corrected rows come in once the old ones are PURGED; `hybridmu run` does both")


def _listed(found: list[dict[str, Any]]) -> None:
    if not found:
        tell("no ingestions")
        return
    columns = ("ingestion", "state", "caller", "rows", "skipped", "generation", "version", "after request", "reason")
    table = Table(*columns)
    for new in found:
        cells = [new[name] for name in ("rows", "skipped", "generation", "version", "after_request", "reason")]
        shown = ["" if cell is None else str(cell) for cell in cells]
        table.add_row(new["ingest_id"], new["state"], new["caller"], *shown)
    print_table(table)
