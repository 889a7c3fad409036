"""`hybridmu pause`, `resume`, `hold`, `holds`, `lift`, `status`: an operator's controls."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hybridmu.cli.options import ConfigOption, JsonOption, ReasonOption
from hybridmu.cli.output import emit, operator, tell
from hybridmu.cli.quality_output import quality_line
from hybridmu.cli.request_output import before_deadline, hold_text
from hybridmu.cli.system_access import open_system


def pause(reason: ReasonOption, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Accept requests, but claim none until `resume`; what runs is finished, repairs meet their deadlines."""
    with open_system(config_file, as_json) as system:
        result = system.pause(reason, operator())
    emit(result, as_json, lambda: tell("paused: requests are accepted, and wait for `hybridmu resume`"))


def resume(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Claim requests again."""
    with open_system(config_file, as_json) as system:
        system.resume()
    emit({"paused": False}, as_json, lambda: tell("resumed"))


def hold(
    reason: ReasonOption,
    config_file: ConfigOption,
    request: Annotated[
        str | None, typer.Option("--request", help="Id of the held request; every request by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Place a legal hold: rows are forgotten by the model all the same, but not purged from storage."""
    with open_system(config_file, as_json) as system:
        result = system.hold(reason, request, operator())
    emit(result, as_json, lambda: tell(f"hold {result['number']} on {request or 'every request'}"))


def holds(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List the legal holds that are not lifted."""
    with open_system(config_file, as_json) as system:
        found = system.holds()
    emit(found, as_json, lambda: tell("\n".join(map(hold_text, found)) or "no holds"))


def lift(
    number: Annotated[int, typer.Argument(help="Number of the hold.")],
    config_file: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """End a legal hold."""
    with open_system(config_file, as_json) as system:
        system.lift(number)
    emit({"lifted": number}, as_json, lambda: tell(f"hold {number} is lifted"))


def status(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Show version, shards and what they owe, requests, pause and holds, replicas."""
    with open_system(config_file, as_json) as system:
        result = system.status()
    emit(result, as_json, lambda: _standing(result))


def _standing(result: dict[str, Any]) -> None:
    """Print where the system stands."""
    rows = ", ".join(f"{count:,} {split}" for split, count in result["rows"].items() if count)
    tell(f"version {result['version']}, {result['voters']} voter(s), rows read: {rows}")
    measured = result["quality"]
    older = f" (of version {measured['version']})" if measured and measured["version"] != result["version"] else ""
    tell(f"quality: {quality_line(measured)}{older}")
    if result["pause"]:
        tell(f"PAUSED by {result['pause']['caller']}: {result['pause']['reason']}")
    debts = [f"{debt['shard']}{before_deadline(debt['deadline_at'])}" for debt in result["debts"]]
    tell(f"shards that owe an exact repair: {'; '.join(debts) or 'none'}")
    _calibration(result["calibration"])
    tell("requests: " + ", ".join(f"{state} {count}" for state, count in result["requests"].items()))
    for placed in result["holds"]:
        tell(hold_text(placed))
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
