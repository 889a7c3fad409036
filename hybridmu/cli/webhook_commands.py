"""`hybridmu webhooks …`: receivers of the events of requests, what waits for them, and what was given up."""

from __future__ import annotations

import signal
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, err, print_table, tell
from hybridmu.cli.system_access import open_system
from hybridmu.logs import start_logging

app = typer.Typer(no_args_is_help=True, help="Webhooks of requests: receivers, what waits, trials; docs/webhooks.md.")
ReceiverOption = Annotated[
    str | None, typer.Option("--receiver", help="Name of the receiver in the configuration; all of them by default.")
]
RequestOption = Annotated[str | None, typer.Option("--request", help="Id of the request; all of them by default.")]


@app.command("list")
def list_(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List receivers, what they have still to be told, and what was given up."""
    with open_system(config_file, as_json) as system:
        result = system.webhooks()
    emit(result, as_json, lambda: _listed(result))


@app.command()
def retry(
    config_file: ConfigOption,
    receiver: ReceiverOption = None,
    request: RequestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try again, within a minute, what was given up or waits after a failure."""
    with open_system(config_file, as_json) as system:
        count = system.retry_webhooks(receiver, request)
    emit({"retried": count}, as_json, lambda: tell(f"{count} event(s) are tried again by the sending process"))


@app.command()
def drop(
    receiver: Annotated[str, typer.Argument(help="Name of the receiver.")],
    config_file: ConfigOption,
    request: RequestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what a receiver has still to be told; it never will be."""
    with open_system(config_file, as_json) as system:
        count = system.drop_webhooks(receiver, request)
    emit({"dropped": count}, as_json, lambda: tell(f"{count} event(s) of {receiver} are deleted"))


@app.command("test")
def try_out(config_file: ConfigOption, receiver: ReceiverOption = None, as_json: JsonOption = False) -> None:
    """Send a signed event of type `test` now; fails when a receiver does not acknowledge it."""  # noqa: DOC501
    with open_system(config_file, as_json) as system:
        result = system.test_webhooks(receiver)
    emit(result, as_json, lambda: tell("\n".join(map(_tried, result))))
    if not all(one["acknowledged"] for one in result):
        raise typer.Exit(1)


@app.command()
def send(
    config_file: ConfigOption,
    once: Annotated[bool, typer.Option("--once", help="Stop when everything that is due was tried.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell receivers until interrupted; `hybridmu run` does it by itself."""
    with open_system(config_file, as_json) as system:
        start_logging(system.settings.logs)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            system.send_webhooks(once=once)
        result = system.webhooks()
    emit(result, as_json, lambda: _listed(result))


def _listed(result: dict[str, Any]) -> None:
    table = Table("receiver", "host", "waiting", "given up", "oldest", "last problem")
    for one in result["receivers"]:
        host = one["host"] or ("removed" if one["removed"] else "not in this configuration")
        counts = (str(one["waiting"]), str(one["dead"]))
        table.add_row(one["name"], host, *counts, _moment(one["oldest_at"]), one["problem"] or "")
    print_table(table)
    for event in result["dead"]:
        what = f"{event['receiver']} was not told that {event['request_id']} is {event['event']}"
        tell(f"given up {_moment(event['dead_at'])}: {what}, in {event['attempts']} tries ({event['problem']})")
    err.print(f"sent by: {result['sender'] or 'nobody at present'}")


def _moment(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _tried(one: dict[str, Any]) -> str:
    answer = "acknowledged" if one["acknowledged"] else f"NOT acknowledged: {one['problem']}"
    return f"{one['receiver']}: {answer}, {one['seconds']:.1f} s"
