"""The command line: `hybridmu VERB -c CONFIG [--json]`.

Results go to standard output (one JSON document with `--json`), progress and errors to standard error. The exit
code is 0 only on success.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli import (
    audit_commands,
    certificate_commands,
    key_commands,
    model_commands,
    operator_commands,
    row_commands,
    server_commands,
    size_command,
    storage_commands,
)
from hybridmu.cli.input_files import read_lines, read_rows
from hybridmu.cli.output import (
    COMMITTED,
    ConfigOption,
    JsonOption,
    Verbs,
    bar,
    emit,
    err,
    errors,
    operator,
    out,
    print_table,
    progress,
    tell,
    warn,
)
from hybridmu.datasets import catalog
from hybridmu.errors import ConfigError
from hybridmu.logs import start_logging
from hybridmu.runtime.coordinator.coordinator import Snapshot
from hybridmu.system.system import System, connect
from hybridmu.types import KeyKind, StrategyChoice
from hybridmu.types.text import visible

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show the values of variables, ids among them
    help="Train on shards, forget on demand, prove it.",
)
data_app = typer.Typer(no_args_is_help=True, help="Built-in real datasets.")
app.add_typer(data_app, name="data")
app.add_typer(certificate_commands.app, name="certificate")
app.add_typer(key_commands.app, name="keys")
app.add_typer(storage_commands.ledger, name="ledger")
app.add_typer(operator_commands.app, name="requests")
app.add_typer(row_commands.ingests_app, name="ingests")
app.add_typer(model_commands.app, name="models")
app.add_typer(row_commands.guard_app, name="guard")
app.add_typer(server_commands.tokens_app, name="tokens")
for _verb in (
    operator_commands.pause,
    operator_commands.resume,
    operator_commands.hold,
    operator_commands.holds,
    operator_commands.lift,
):
    app.command()(_verb)
app.command()(row_commands.ingest)
app.command()(row_commands.correct)
app.command()(row_commands.readmit)
app.command()(model_commands.reshard)
app.command()(audit_commands.audit)
app.command()(server_commands.api)
app.command()(storage_commands.checkpoints)
app.command()(size_command.size)
app.command()(storage_commands.upgrade)
app.command()(storage_commands.decommission)

LocalOption = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
IdOption = Annotated[list[str] | None, typer.Option("--id", help="A row id; may be repeated.")]
IdsOption = Annotated[str | None, typer.Option("--ids", help="File with one id per line, or - for standard input.")]
GroupOption = Annotated[list[str] | None, typer.Option("--group", help="A group; may be repeated.")]
GroupsOption = Annotated[str | None, typer.Option("--groups", help="File with one group per line, or -.")]
StrategyOption = Annotated[str, typer.Option("--strategy", help=f"One of {', '.join(get_args(StrategyChoice))}.")]
IgnoreOption = Annotated[bool, typer.Option("--ignore-unknown", help="Leave unknown ids out.")]


@app.command()
def train(config_file: ConfigOption, as_json: JsonOption = False, local: LocalOption = False) -> None:
    """Read the tables and train every shard; version 1."""
    kept = "what is trained so far is kept, and the same command goes on from there"
    with _system(config_file, as_json, local, kept) as system, progress("training") as watch:
        result = system.train(watch)
    done = "already trained: nothing was to be done" if result["already_trained"] else "trained"
    emit(result, as_json, lambda: _facts(done, result))
    warn(result["warnings"])


@app.command()
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
    """Show what a forget request would do and cost, without doing it."""
    with _system(config_file, as_json, local=True) as system:
        found = system.plan(
            ids=_keys(system, "id", id_, ids),
            groups=_keys(system, "group", group, groups),
            strategy=_strategy(strategy),
            ignore_unknown=ignore_unknown,
        )
    emit(asdict(found), as_json, lambda: tell(found.explain()))


@app.command()
def forget(
    config_file: ConfigOption,
    id_: IdOption = None,
    ids: IdsOption = None,
    group: GroupOption = None,
    groups: GroupsOption = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key.")] = None,
    strategy: StrategyOption = "auto",
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="When it must be exact and purged.")
    ] = None,
    caller: Annotated[str | None, typer.Option("--caller", help="Who asks; your user name when left out.")] = None,
    ignore_unknown: IgnoreOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it until it is served.")] = False,
    as_json: JsonOption = False,
    local: LocalOption = False,
) -> None:
    """Commit a forget request; with --wait follow the running coordinator, or become it."""
    with _system(config_file, as_json, local, COMMITTED) as system, progress("forgetting") as watch:
        result = system.forget(
            ids=_keys(system, "id", id_, ids),
            groups=_keys(system, "group", group, groups),
            strategy=_strategy(strategy),
            key=key,
            caller=operator() if caller is None else caller,
            deadline_seconds=deadline,
            ignore_unknown=ignore_unknown,
            wait=wait,
            watch=watch,
        )
    emit(result, as_json, lambda: operator_commands.outcome(result))


@app.command()
def run(
    config_file: ConfigOption,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Stop when nothing is left to do.")] = False,
    as_json: JsonOption = False,
    local: LocalOption = False,
) -> None:
    """Be the coordinator: fulfil requests until interrupted; fails when a shard's repair is left undone at the end."""  # noqa: DOC501
    with _system(config_file, as_json, local) as system:
        start_logging(system.settings.logs)
        last: list[Snapshot] = []

        def watch(snapshot: Snapshot) -> None:
            if not last or last[0] != snapshot:
                err.print(
                    f"version {snapshot.version}, {snapshot.open_requests} open, "
                    f"{snapshot.jobs_done}/{snapshot.jobs_total} shard jobs" + (", paused" if snapshot.paused else "")
                )
            last[:] = [snapshot]

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's stop releases the lease too
        try:
            snapshot = system.run(until_idle=until_idle, watch=watch)
        except KeyboardInterrupt:
            snapshot = last[0] if last else Snapshot(None, 0, 0, 0)
    facts = asdict(snapshot)
    del facts["repairing"]
    if not snapshot.blocked:
        del facts["blocked"]
    emit(facts, as_json, lambda: _facts("stopped", facts))
    if until_idle and snapshot.blocked:
        shards = ", ".join(map(str, snapshot.blocked))
        err.print(f"the exact retrain failed of shard {shards}: the log above says how; `hybridmu run` tries it again")
        raise typer.Exit(1)


@app.command()
def status(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Show version, shards and what they owe, requests, pause and holds, replicas."""
    with _system(config_file, as_json, local=True) as system:
        result = system.status()
    emit(result, as_json, lambda: operator_commands.standing(result))


@app.command()
def verify(
    config_file: ConfigOption,
    shard: Annotated[list[int] | None, typer.Option("--shard", help="Only this shard; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain from scratch in fresh processes and compare; fails when a shard that claims to be exact is not.

    It also fails when a forgotten id or group has live rows.
    """  # noqa: DOC501
    with _system(config_file, as_json, local=True) as system, bar("training the oracle from scratch") as advance:
        result = system.verify(shard, advance)
    emit(result, as_json, lambda: _verified(result))
    if not result["exact_claims_hold"] or result["guarded_rows_in_lake"]:
        raise typer.Exit(1)


@app.command()
def predict(
    config_file: ConfigOption,
    rows: Annotated[str, typer.Argument(help="JSON file, Parquet file or folder, or - for JSON on standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Classify rows offline with the served version."""
    with _system(config_file, as_json, local=True) as system:
        result = system.predict(read_rows(rows, system.feature_columns()))
    emit(result, as_json, lambda: _labels(result))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder of the report; its old content is removed.")] = Path(
        "runs/demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train, forget, prove and serve on real digits, and write a report."""  # noqa: DOC501
    from hybridmu.demo import run_demo  # starts a cluster; the other verbs do without its imports

    with errors(as_json, "the same command begins anew"):
        result = run_demo(output, err)
    emit(result, as_json, lambda: None)
    if not result["ok"]:
        raise typer.Exit(1)


@data_app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """List the built-in datasets."""
    found = {name: catalog.describe(name).about for name in catalog.names()}
    emit(found, as_json, lambda: tell("\n".join(f"{name:8} {about}" for name, about in found.items())))


@data_app.command("get")
def data_get(name: str, as_json: JsonOption = False) -> None:
    """Fetch a dataset if need be, check its sha256, convert it to Parquet once."""
    with errors(as_json, "the same command begins anew"), bar(f"preparing {name}"):
        catalog.describe(name)
        folder = catalog.get(name)
    emit({"name": name, "folder": str(folder)}, as_json, lambda: tell(str(folder)))


def main() -> None:
    """Run the command line; the entry point of the jobs."""
    app()


# ---------------------------------------------------------------------- helpers


@contextmanager
def _system(
    config_file: Path, as_json: bool, local: bool, interrupted: str = "nothing was changed"
) -> Iterator[System]:
    with errors(as_json, interrupted), connect(config.load(config_file), "local" if local else "ray") as system:
        yield system


def _keys(system: System, kind: KeyKind, given: list[str] | None, source: str | None) -> list[str]:
    """Return the keys on the command line and those in a file, each line as it is.

    In a column of numbers spaces around one mean nothing; in a column of text they may tell two people apart.
    """
    lines = [] if source is None else read_lines(source)
    if lines and system.has_numbers(kind):
        lines = [line.strip(" \t") for line in lines if line.strip(" \t")]
    return [*(given or []), *lines]


def _strategy(name: str) -> StrategyChoice:
    if name not in get_args(StrategyChoice):
        raise ConfigError(f"unknown strategy {name!r}", expected=f"one of {', '.join(get_args(StrategyChoice))}")
    return name  # type: ignore[return-value]


def _facts(title: str, facts: dict[str, Any]) -> None:
    out.print(title, style="bold")
    for name, value in facts.items():
        if name not in {"warnings", "already_trained"}:  # the first go to standard error, the second is the title
            tell(f"  {name.replace('_', ' ')}: {_worded(value)}")


def _worded(value: Any) -> str:
    """Return a value of a result in words."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case float():
            return f"{value:.3g}"
        case dict():
            return ", ".join(f"{_worded(each)} {name}" for name, each in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_worded, value)) or "none"
        case _:
            return visible(str(value))


def _labels(result: dict[str, Any]) -> None:
    tell("\n".join(visible(str(prediction["label"])) for prediction in result["predictions"]))


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _claims(result: dict[str, Any]) -> str:
    if not result["exact_shards"]:
        return "nothing to prove"
    return "all proven bit for bit" if result["exact_claims_hold"] else "NOT all equal to the oracle"


def _verified(result: dict[str, Any]) -> None:
    table = Table("shard", "claims", "bitwise equal", "forget-loss gap", "accuracy", "oracle's")
    for s in result["shards"]:
        gap, ours, theirs = (s.get(name) for name in ("forget_loss_gap", "accuracy", "oracle_accuracy"))
        shown = [f"{x:.4f}" if x is not None else "" for x in (gap, ours, theirs)]
        table.add_row(str(s["shard"]), "exact" if s["exact"] else "approximate", str(s["bitwise_equal"]), *shown)
    print_table(table)
    if foreign := [s["shard"] for s in result["shards"] if s["exact"] and not s["replayable"]]:
        tell(f"shards {_worded(foreign)} were made by other code, libraries, CPU or thread count: not replayable here")
    if result["guarded_rows_in_lake"]:
        tell(f"{result['guarded_rows_in_lake']} live row(s) have an id or group that is forgotten")
    if result["guard_entries_lost"]:
        tell(f"{result['guard_entries_lost']} forgotten ids and groups can't be checked: their guard key is lost")
    tell(
        f"version {result['version']}: {result['exact_shards']} exact shard(s), "
        f"{_claims(result)}; {result['approximate_shards']} approximate; "
        f"accuracy {_short(result['accuracy'])}, oracle {_short(result['oracle_accuracy'])}"
    )
