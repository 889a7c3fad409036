"""`hybridmu plan`, `forget`, `requests …`: deletion requests from the command line."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hybridmu.cli.next_steps import after_plan
from hybridmu.cli.options import (
    STRATEGIES,
    CallerOption,
    ConfigOption,
    GroupOption,
    IdOption,
    JsonOption,
    KeyOption,
    LocalOption,
    StrategyOption,
    strategy_named,
)
from hybridmu.cli.output import COMMITTED, emit, operator, progress, tell
from hybridmu.cli.request_output import print_list, print_outcome, print_page, print_request
from hybridmu.cli.system_access import open_system
from hybridmu.types import RequestState

if TYPE_CHECKING:
    from hybridmu.system.system import System
    from hybridmu.types import KeyKind

app = typer.Typer(no_args_is_help=True, help="Deletion requests: list, show, approve, take back, retry.")

RequestArgument = Annotated[str, typer.Argument(help="Id of the request.")]
_OR_TABLE = "per line, or - for standard input; or a table in Parquet, Arrow IPC or .csv with the column of them."
IdsOption = Annotated[str | None, typer.Option("--ids", help=f"File with one id {_OR_TABLE}")]
GroupsOption = Annotated[str | None, typer.Option("--groups", help=f"File with one group {_OR_TABLE}")]
IgnoreOption = Annotated[
    bool, typer.Option("--ignore-unknown", help="Leave unknown ids and groups out instead of refusing the request.")
]


def plan(
    config_file: ConfigOption,
    id_: IdOption = None,
    ids: IdsOption = None,
    group: GroupOption = None,
    groups: GroupsOption = None,
    strategy: StrategyOption = "auto",
    ignore_unknown: IgnoreOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a deletion request would do and cost, without doing it."""
    with open_system(config_file, as_json) as system:
        found = system.plan(
            ids=_keys(system, "id", id_, ids),
            groups=_keys(system, "group", group, groups),
            strategy=strategy_named(strategy),
            ignore_unknown=ignore_unknown,
        )

    def show_plan() -> None:
        tell(found.explain())
        after_plan(config_file)

    emit(asdict(found), as_json, show_plan)


def forget(
    config_file: ConfigOption,
    id_: IdOption = None,
    ids: IdsOption = None,
    group: GroupOption = None,
    groups: GroupsOption = None,
    key: KeyOption = None,
    strategy: StrategyOption = "auto",
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="Seconds until exact removal and purge must finish."),
    ] = None,
    caller: CallerOption = None,
    ignore_unknown: IgnoreOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the request is served.")] = False,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Commit a deletion request; with --wait follow the running coordinator, or become it."""
    with (
        open_system(config_file, as_json, local=local, interrupted=COMMITTED) as system,
        progress("forgetting") as watch,
    ):
        result = system.forget(
            ids=_keys(system, "id", id_, ids),
            groups=_keys(system, "group", group, groups),
            strategy=strategy_named(strategy),
            key=key,
            caller=operator() if caller is None else caller,
            deadline_seconds=deadline,
            ignore_unknown=ignore_unknown,
            wait=wait,
            watch=watch,
        )
    emit(result, as_json, lambda: print_outcome(result, config_file))


@app.command("list")
def list_(
    config_file: ConfigOption,
    state: Annotated[
        list[RequestState] | None,
        typer.Option("--state", case_sensitive=False, help="State of the listed requests; may be repeated."),
    ] = None,
    caller: Annotated[str | None, typer.Option("--caller", help="Caller of the listed requests.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Number of the newest requests to list, 1 to 1,000.")
    ] = None,
    before: Annotated[
        int | None, typer.Option("--before", help="Number at which the previous part of the list ended; with --limit.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List requests in the order in which they were accepted; with --limit the newest of them, newest first."""
    with open_system(config_file, as_json) as system:
        if limit is not None or before is not None:
            page = system.page(states=state or (), caller=caller, limit=50 if limit is None else limit, before=before)
            emit(page, as_json, lambda: print_page(page))
            return
        found = system.requests(state or (), caller)
    emit(found, as_json, lambda: print_list(found))


@app.command()
def show(request_id: RequestArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Show every time of a request, what it still waits for, and plan against actual per round and shard."""
    with open_system(config_file, as_json) as system:
        result = system.report(request_id)
        held = [hold for hold in system.holds() if hold["request_id"] in {None, request_id}]
        relies_on = system.ledger.relies_on(request_id)
    deadline = result["deadline_at"]
    result |= {"relies_on": relies_on}
    result |= {"slack_seconds": None if deadline is None else deadline - time.time(), "holds": held}
    emit(result, as_json, lambda: print_request(result, config_file))


@app.command()
def cancel(request_id: RequestArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Take back a request that nobody began to fulfil; its rows are live again."""
    with open_system(config_file, as_json) as system:
        result = system.cancel(request_id, operator())
    emit(result, as_json, lambda: tell(f"{request_id} CANCELLED: its rows are live"))


@app.command()
def approve(request_id: RequestArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Approve a request that was PROPOSED, as another caller than the one who asked for it."""
    with open_system(config_file, as_json) as system:
        result = system.approve(request_id, operator())
    approval = result["approval"] or {}
    said = f"{request_id} {result['state']}: approved by {approval.get('approved_by')}"
    emit(result, as_json, lambda: tell(f"{said}; a coordinator (`hybridmu run`) fulfils it"))


@app.command()
def retry(
    request_id: RequestArgument,
    config_file: ConfigOption,
    strategy: Annotated[
        str, typer.Option("--strategy", help=f"Removal strategy of the new attempt: one of {STRATEGIES}.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Take up again a request that FAILED, once the reason is mended; its rows were kept out all the time."""
    with open_system(config_file, as_json) as system:
        result = system.retry(request_id, strategy_named(strategy))
    emit(result, as_json, lambda: tell(f"{request_id} {result['state']}: a coordinator (`hybridmu run`) fulfils it"))


def _keys(system: System, kind: KeyKind, given: list[str] | None, source: str | None) -> list[int | str]:
    """Return the keys on the command line and those in a file, each as it is.

    In a column of numbers spaces around one mean nothing; in a column of text they may tell two people apart.
    """
    data = system.settings.data
    found: list[int | str] = []
    if source is not None:
        from hybridmu.cli.row_files import read_keys  # reads tables too, which a request without a file does without

        found = read_keys(source, data.id if kind == "id" else data.group)
    if found and system.has_numbers(kind):
        found = [key.strip(" \t") if isinstance(key, str) else key for key in found]
    return [*(given or []), *(key for key in found if key != "" or not system.has_numbers(kind))]
