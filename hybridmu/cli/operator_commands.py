"""`hybridmu pause`, `resume`, `hold`, `holds`, `lift`, `status`: an operator's controls."""

from __future__ import annotations

from typing import Annotated

import typer

from hybridmu.cli.options import ConfigOption, JsonOption, ReasonOption
from hybridmu.cli.output import emit, operator, tell
from hybridmu.cli.request_output import hold_text
from hybridmu.cli.status_output import print_status
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


def status(
    config_file: ConfigOption,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Show what canaries measured of each update, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show version, rows, quality, debts and the next deadline, requests and holds."""
    with open_system(config_file, as_json) as system:
        result = system.status(calibration=as_json or calibration)
        left = None if as_json else system.vitals().next_deadline_seconds
    emit(result, as_json, lambda: print_status(result, left))
