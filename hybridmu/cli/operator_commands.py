"""`hybridmu requests …`, pause and resume, legal holds: what operators look at and what they switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.output import ConfigOption, JsonOption, emit, errors, operator, print_table, tell
from hybridmu.system.system import System, connect
from hybridmu.types import ForwardState, RequestState

app = typer.Typer(no_args_is_help=True, help="Deletion requests: list, look, take back.")

RequestArgument = Annotated[str, typer.Argument(help="The request.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the log.")]


@app.command("list")
def list_(
    config_file: ConfigOption,
    state: Annotated[
        list[RequestState] | None,
        typer.Option("--state", case_sensitive=False, help="Only these; may be repeated."),
    ] = None,
    caller: Annotated[str | None, typer.Option("--caller", help="Only those of this caller.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only so many of the newest, 1 to 1,000.")] = None,
    before: Annotated[
        int | None, typer.Option("--before", help="With --limit: where the list before it ended.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List requests in the order in which they were accepted; with --limit the newest of them, newest first."""
    with _system(config_file, as_json) as system:
        if limit is not None or before is not None:
            page = system.page(states=state or (), caller=caller, limit=50 if limit is None else limit, before=before)
            emit(page, as_json, lambda: _paged(page))
            return
        found = system.requests(state or (), caller)
    emit(found, as_json, lambda: _listed(found))


@app.command()
def show(request_id: RequestArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Show every time of a request, what it still waits for, and plan against actual per round and shard."""
    with _system(config_file, as_json) as system:
        result = system.report(request_id)
        held = [hold for hold in system.holds() if hold["request_id"] in {None, request_id}]
        relies_on = system.ledger.relies_on(request_id)
    deadline = result["deadline_at"]
    result |= {"relies_on": relies_on}
    result |= {"slack_seconds": None if deadline is None else deadline - time.time(), "holds": held}
    emit(result, as_json, lambda: _shown(result))


@app.command()
def cancel(request_id: RequestArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Take back a request that nobody began to fulfil; its rows are live again."""
    with _system(config_file, as_json) as system:
        result = system.cancel(request_id, operator())
    emit(result, as_json, lambda: tell(f"{request_id} CANCELLED: its rows are live again"))


@app.command()
def retry(
    request_id: RequestArgument,
    config_file: ConfigOption,
    strategy: Annotated[str, typer.Option("--strategy", help="How it is fulfilled now.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Take up again a request that FAILED, once the reason is mended; its rows were kept out all the time."""
    with _system(config_file, as_json) as system:
        result = system.retry(request_id, strategy)
    emit(result, as_json, lambda: tell(f"{request_id} {result['state']}: a coordinator (`hybridmu run`) fulfils it"))


def pause(reason: ReasonOption, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Accept requests, but claim none until `resume`; what runs is finished, repairs meet their deadlines."""
    with _system(config_file, as_json) as system:
        result = system.pause(reason, operator())
    emit(result, as_json, lambda: tell("paused: requests are accepted, and wait for `hybridmu resume`"))


def resume(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Claim requests again."""
    with _system(config_file, as_json) as system:
        system.resume()
    emit({"paused": False}, as_json, lambda: tell("resumed"))


def hold(
    reason: ReasonOption,
    config_file: ConfigOption,
    request: Annotated[str | None, typer.Option("--request", help="Only this request; all when left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Place a legal hold: rows are forgotten by the model all the same, but not purged from storage."""
    with _system(config_file, as_json) as system:
        result = system.hold(reason, request, operator())
    emit(result, as_json, lambda: tell(f"hold {result['number']} on {request or 'every request'}"))


def holds(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List the legal holds that are not lifted."""
    with _system(config_file, as_json) as system:
        found = system.holds()
    emit(found, as_json, lambda: tell("\n".join(map(_hold, found)) or "no holds"))


def lift(
    number: Annotated[int, typer.Argument(help="The hold.")], config_file: ConfigOption, as_json: JsonOption = False
) -> None:
    """End a legal hold."""
    with _system(config_file, as_json) as system:
        system.lift(number)
    emit({"lifted": number}, as_json, lambda: tell(f"hold {number} is lifted"))


def outcome(report: dict[str, Any]) -> None:
    """Print what became of a request: one line, its shards, and what comes next."""
    took = report["seconds_to_applied"]
    tell(
        f"{report['request_id']} {report['state']}: {report['keys']} key(s)"
        + (f", version {report['version_before']} -> {report['version_after']}" if report["version_after"] else "")
        + (f", applied {_after(took)}" if took is not None else "")
    )
    _shards(report)
    if report["state"] == RequestState.RECEIVED:
        tell("committed; `hybridmu run` fulfils it, or repeat the command with --wait")
    if report["owes_exact_repair"]:
        tell(f"approximate: {_repair(report)}")
    if report["already_forgotten"] or report["ignored_unknown"]:
        tell(f"{report['already_forgotten']} forgotten before, {report['ignored_unknown']} unknown and ignored")
    elsewhere(report)


def elsewhere(report: dict[str, Any]) -> None:
    """Print how far a request is in linked models, and whose coordinator has to run."""
    if report["origin"]:
        tell(f"  passed on by a linked model: {report['origin']}")
    for there in report["models"]:
        why = f": {there['reason']}" if there["reason"] else ""
        number = f", certificate {there['certificate']}" if there.get("certificate") else ""
        tell(f"  model {there['name']}: {there['state']} {there['request_id'] or ''}{number}{why}".rstrip())
    if any(there["state"] == ForwardState.WAITING for there in report["models"]):
        tell("  what is WAITING was not passed on yet: `hybridmu run` with this configuration goes on trying")
    begun = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)
    if names := [there["name"] for there in report["models"] if there["state"] in begun]:
        tell(f"  to be fulfilled by the coordinator(s) of {', '.join(names)}: `hybridmu run` with that configuration")


def standing(result: dict[str, Any]) -> None:
    """Print where the system stands, from `System.status`."""
    tell(f"version {result['version']}, {result['voters']} voter(s)")
    if result["pause"]:
        tell(f"PAUSED by {result['pause']['caller']}: {result['pause']['reason']}")
    debts = [f"{debt['shard']}{_before(debt['deadline_at'])}" for debt in result["debts"]]
    tell(f"shards that owe an exact repair: {'; '.join(debts) or 'none'}")
    _calibration(result["calibration"])
    tell("requests: " + ", ".join(f"{state} {count}" for state, count in result["requests"].items()))
    for placed in result["holds"]:
        tell(_hold(placed))
    if result["models"]:
        tell(f"linked with: {', '.join(result['models'])}; {result['undelivered']} request(s) not passed on yet")
    if past := result["predecessor"]:
        tell(f"its first rows are those of model {past['name']}, version {past['version']}")
    replicas = ", ".join(f"{name} with version {version}" for name, version in result["replicas"].items())
    tell(f"replicas: {replicas or 'none'}; coordinator: {result['coordinator'] or 'none'}")


def _calibration(found: dict[str, Any]) -> None:
    for bucket in found["buckets"]:
        low, high = bucket["alpha_range"]
        tell(
            f"{bucket['strategy']} from slice {bucket['first_slice']} at {bucket['share']:.1%} of rows: "
            f"alpha {bucket['alpha']:.3g} [{low:.3g}, {high:.3g}], error {bucket['error']:.3f} + spread "
            f"{bucket['spread']:.3f}, by {bucket['canaries']} canaries on {bucket['shards']} shard(s)"
        )
    if noise := found["noise"]:
        tell(
            f"two exact trainings in another order of the rows differ by {noise['common']:.3f} on many rows, and "
            f"besides by {noise['single']:.3f} on a single one (root mean squares of {noise['pairs']} pairs)"
        )
    if cells := [f"slice {cell['first_slice']} at {cell['share']:.1%}" for cell in found["waiting"]]:
        tell(
            f"waiting for canaries: {', '.join(cells)}; {found['seconds_spent_again']:.0f} of "
            f"{found['seconds_allowed_again']:.0f} s are spent on deleting canaries again"
        )


@contextmanager
def _system(config_file: Path, as_json: bool) -> Iterator[System]:
    with errors(as_json), connect(config.load(config_file), "local") as system:
        yield system


def _listed(found: list[dict[str, Any]]) -> None:
    if not found:
        tell("no requests")
        return
    table = Table("request", "state", "caller", "keys", "accepted", "applied", "served", "exact", "purged", "deadline")
    for row in found:
        times = [row[f"{name}_at"] for name in ("applied", "served", "exact", "purged", "deadline")]
        shown = [_after(at - row["received_at"]) if at else "" for at in times]
        table.add_row(
            row["request_id"], row["state"], row["caller"], str(row["keys"]), _utc(row["received_at"]), *shown
        )
    print_table(table)


def _paged(page: dict[str, Any]) -> None:
    _listed(page["requests"])
    if page["next_before"] is not None:
        tell(f"older ones: --before {page['next_before']}")


def _shown(report: dict[str, Any]) -> None:
    asked = f", asked by {report['caller']}" if report["caller"] else ""
    tell(f"{report['request_id']} {report['state']}{asked}: {report['keys']} key(s), strategy {report['strategy']}")
    if report["reason"]:
        tell(f"  because   {report['reason']}")
    tell(f"  accepted  {_utc(report['received_at'])}")
    slack = report["slack_seconds"]
    left = "" if slack is None else f", {slack:.1f} s left" if slack > 0 else f", passed {-slack:.1f} s ago"
    tell(f"  deadline  {_after(report['seconds_to_deadline']) + left if left else 'none'}")
    version, exact = report["version_after"], report["version_exact"]
    how = "exactly" if version == exact else "approximately"
    notes = {
        "applied": f", {how}, by version {version}",
        "served": "",
        "exact": f", by version {exact}",
        "purged": f", certificate {report['certificate']}" if report["certificate"] else "",
    }
    for name, note in notes.items():
        took = report[f"seconds_to_{name}"]
        if took is None and report["state"] == RequestState.CANCELLED:
            continue
        tell(f"  {name:8}  {'not yet' if took is None else _after(took) + note}")
    if report["owes_exact_repair"]:
        tell(_repair(report))
    for earlier, number in report["relies_on"].items():
        tell(f"  rows of it are those of {earlier}{f', certificate {number}' if number else ''}")
    for placed in report["holds"]:
        tell(_hold(placed))
    elsewhere(report)
    _shards(report)


def _shards(report: dict[str, Any]) -> None:
    columns = ("shard", "strategy", "rule", "rows", "slice", "visits", "planned", "seconds", "estimated")
    rounds = {row["round"]: None for row in report["shards"]}
    for number, name in enumerate(rounds, start=1):
        table = Table(*columns, title=f"round {number} of {len(rounds)}" if len(rounds) > 1 else None)
        for s in (row for row in report["shards"] if row["round"] == name):
            cells = (s["shard"], s["strategy"], s["rule"], s["revoked"], s["first_slice"], s["sample_visits"])
            seconds = (f"{s['measured_seconds']:.3f}", f"{s['estimated_seconds']:.3f}")
            table.add_row(*map(str, (*cells, s["planned_visits"], *seconds)))
        print_table(table)


def _repair(report: dict[str, Any]) -> str:
    """Return when the exact retrain comes that an approximate removal owes."""
    deadline = report["deadline_at"]
    if report["repair"] == "idle":
        when = f"as soon as no request waits{_before(deadline)}"
    elif deadline:
        when = f"when it must{_before(deadline)}"
    else:
        when = "when the shard's error budget is spent: there is no deadline, and policy.repair is `deadline`"
    shards = ", ".join(map(str, report["owes_exact_repair"]))
    return f"shards {shards} owe an exact retrain; `hybridmu run` makes it by itself {when}"


def _before(deadline: float | None) -> str:
    if deadline is None:
        return ""
    left = deadline - time.time()
    return f", before the deadline in {left:.1f} s" if left > 0 else f", though the deadline passed {-left:.1f} s ago"


def _hold(placed: dict[str, Any]) -> str:
    what = placed["request_id"] or "every request"
    by = f" by {placed['caller']}" if placed["caller"] else ""
    return f"legal hold {placed['number']} on {what}, since {_utc(placed['placed_at'])}{by}: {placed['reason']}"


def _after(seconds: float) -> str:
    return f"after {seconds:.{1 if seconds >= 1 else 2}f} s"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
