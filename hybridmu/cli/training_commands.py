"""`hybridmu train`, `run`, `verify`, `predict`: a model's training, its coordinator, its proof and its answers."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu.cli.answer_files import check_answer_file, write_answers
from hybridmu.cli.next_steps import after_training
from hybridmu.cli.options import ConfigOption, JsonOption, LocalOption
from hybridmu.cli.output import bar, emit, err, out, print_table, progress, tell, warn
from hybridmu.cli.quality_output import quality_line
from hybridmu.cli.row_files import is_table, read_json, read_rows, table_reader
from hybridmu.cli.system_access import open_system
from hybridmu.logs import start_logging
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.serving.table_answers import VERSION
from hybridmu.system.system import System
from hybridmu.types.text import visible


def train(
    config_file: ConfigOption,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure approximate updates too, within policy.calibration_seconds.")
    ] = False,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Read the tables, train every shard and publish version 1."""
    kept = "what is trained so far is kept, and the same command goes on from there"
    with open_system(config_file, as_json, local=local, interrupted=kept) as system, progress("training") as watch:
        result = system.train(watch, calibrate=calibrate)
    done = "already trained: nothing was to be done" if result["already_trained"] else "trained"
    emit(result, as_json, lambda: _trained(done, result, config_file))
    warn(result["warnings"])


def run(
    config_file: ConfigOption,
    until_idle: Annotated[
        bool,
        typer.Option("--until-idle", help="Stop when every request is served and nothing is left to repair or purge."),
    ] = False,
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Run the coordinator until interrupted; fails when a shard's repair is left undone at the end."""  # noqa: DOC501
    with open_system(config_file, as_json, local=local) as system:
        start_logging(system.settings.logs)
        last: list[Snapshot] = []

        def watch(snapshot: Snapshot) -> None:
            if not last or last[0] != snapshot:
                err.print(_at_work(snapshot))
            last[:] = [snapshot]

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's stop releases the lease too
        try:
            snapshot = system.run(until_idle=until_idle, watch=watch)
        except KeyboardInterrupt:
            snapshot = last[0] if last else Snapshot(None, 0, 0, 0)
    facts = asdict(snapshot)
    del facts["repairing"], facts["evaluating"], facts["canaries"], facts["rows_read"]
    if not snapshot.blocked:
        del facts["blocked"]
    emit(facts, as_json, lambda: _facts("stopped", facts))
    if until_idle and snapshot.blocked:
        shards = ", ".join(map(str, snapshot.blocked))
        err.print(f"the exact retrain failed of shard {shards}: the log above says how; `hybridmu run` tries it again")
        raise typer.Exit(1)


def verify(
    config_file: ConfigOption,
    shard: Annotated[
        list[int] | None,
        typer.Option("--shard", help="Number of a shard to verify, every shard by default; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain from scratch in fresh processes and compare; fails when a shard that claims to be exact is not.

    It also fails when a forgotten id or group has live rows.
    """  # noqa: DOC501
    with open_system(config_file, as_json) as system, bar("training the oracle from scratch") as advance:
        result = system.verify(shard, advance)
    emit(result, as_json, lambda: _verified(result))
    if not result["exact_claims_hold"] or result["guarded_rows_in_lake"]:
        raise typer.Exit(1)


def predict(
    config_file: ConfigOption,
    rows: Annotated[
        str,
        typer.Argument(
            help="File in Parquet, Arrow IPC, CSV, JSON or JSON Lines, folder of a table, or - for JSON (Lines) on "
            "standard input."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="File for the answers, written while rows are read: .parquet, .arrow, .feather, .csv, .json, .jsonl.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the classes or values of rows offline with the served version."""
    with open_system(config_file, as_json) as system:
        if output is None:
            result = system.predict(read_rows(rows, system.feature_columns()))
        else:
            result = _written(system, rows, output)
    emit(result, as_json, lambda: _answers(result) if output is None else _facts("predicted", result))


def _written(system: System, rows: str, output: Path) -> dict[str, Any]:
    check_answer_file(output, rows)
    columns, name = system.feature_columns(), system.settings.data.id
    answers = (
        system.predict(table_reader(rows, columns, name)) if is_table(rows) else system.predict_rows(read_json(rows))
    )
    written = write_answers(answers, output)
    return {"version": int(answers.schema.metadata[VERSION]), "rows": written, "output": str(output)}


def _trained(done: str, result: dict[str, Any], config_file: Path) -> None:
    _facts(
        done,
        {
            name: value
            for name, value in result.items()
            if name not in {"quality", "calibrated", "calibration", "settings", "left_out"}
        },
    )
    tell(f"  settings: {_settings(result['settings'], result['left_out'])}")
    tell(f"  quality: {quality_line(result['quality'])}")
    tell(f"  updates: {_calibration(result['calibration'])}")
    after_training(config_file)


def _at_work(snapshot: Snapshot) -> str:
    """Return what a coordinator does, in words."""
    doing = {
        f"{snapshot.jobs_done} of {snapshot.jobs_total} shard jobs": snapshot.jobs_total,
        f"{snapshot.ingestions} new table(s) to take in": snapshot.ingestions,
        "exact repairs next": snapshot.repairing,
        "purging": snapshot.purging,
        "measuring quality": snapshot.evaluating,
        "calibrating updates": snapshot.calibrating,
        "paused": snapshot.paused,
    }
    now = [text for text, is_so in doing.items() if is_so] or ["nothing to do"]
    return f"version {snapshot.version}, {snapshot.open_requests} request(s) open: {', '.join(now)}"


def _settings(used: dict[str, Any], left_out: list[str]) -> str:
    """Return what shaped the training, in words."""
    if "learner" in used:
        return f"{used['shards']} shard(s), task {used['task']} by learner {used['learner']}"
    said = (
        f"{used['shards']} shard(s) of {used['slices']} slice(s), {used['epochs']} epochs in batches of "
        f"{used['batch_size']}, {used['optimizer']} at {used['lr']:g}"
    )
    said += f", hidden layers {used['hidden']}" if "hidden" in used else ""
    said += ", standardised columns" if used["standardize"] else ""
    return f"{said}; what the configuration leaves out of it stays so" if left_out else said


def _calibration(found: dict[str, Any]) -> str:
    """Return where the calibration of approximate updates stands, in words."""
    match found["state"]:
        case "off":
            return "not calibrated: the policy retrains, or says not to"
        case "needless":
            return f"not calibrated: every deletion is exact anyway ({found['why']})"
        case "waiting":
            return (
                f"{found['sets_lacking']} set(s) of canaries are to be deleted, until then deletions are retrained; "
                "`hybridmu run` does it when nothing else is to do, `hybridmu train --calibrate` at once"
            )
    return "calibrated"


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


def _answers(result: dict[str, Any]) -> None:
    tell("\n".join(map(_answer, result["predictions"])))


def _answer(prediction: dict[str, Any]) -> str:
    if "label" in prediction:
        return visible(str(prediction["label"]))
    if "values" in prediction:
        intervals = prediction["intervals"]
        return ", ".join(
            f"{visible(name)} {_valued(value, intervals[name])}" for name, value in prediction["values"].items()
        )
    return _valued(prediction["value"], prediction["interval"])


def _valued(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:g} (sub-models {low:g} to {high:g})"


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _claims(result: dict[str, Any]) -> str:
    if not result["exact_shards"]:
        return "nothing to prove"
    return "all proven bit for bit" if result["exact_claims_hold"] else "NOT all equal to the oracle"


def _verified(result: dict[str, Any]) -> None:
    figure = "accuracy" if "accuracy" in result else "skill"
    table = Table("shard", "claims", "bitwise equal", "forget-loss gap", figure, "oracle's")
    for s in result["shards"]:
        gap, ours, theirs = (s.get(name) for name in ("forget_loss_gap", figure, f"oracle_{figure}"))
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
        f"{figure} {_short(result[figure])}, oracle {_short(result[f'oracle_{figure}'])}"
    )
