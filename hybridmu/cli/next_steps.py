"""Next steps, told after a command has done its part."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hybridmu.cli.output import tell
from hybridmu.types import RequestState


def after_training(config: Path) -> None:
    """Tell what a trained system is for."""
    _next(f"{_call('plan --id ID', config)} says what a deletion would cost, {_call('forget --id ID --wait', config)}")
    tell(f"  deletes, {_call('verify', config)} proves it, {_call('evaluate', config)} shows how right the answers are")


def after_plan(config: Path) -> None:
    """Tell how a plan is carried out."""
    _next(f"the same keys with {_call('forget', config)}, and --wait to see it done")


def after_deletion(report: dict[str, Any], config: Path) -> None:
    """Tell what a request waits for, and what to do about it.

    Args:
        report: As `System.report` returns it.
        config: Of the system.
    """
    match report["state"]:
        case RequestState.PROPOSED:
            call = _call(f"requests approve {report['request_id']}", config)
            _next(f"{call} by somebody else than {report['caller'] or 'its caller'}; nothing is done before")
        case RequestState.RECEIVED | RequestState.PLANNED | RequestState.APPLIED:
            _next(f"{_call('run', config)} fulfils it, or the same command with --wait")
        case RequestState.SERVED:
            first = "makes it exact, " if report["owes_exact_repair"] else ""
            run = _call("run --until-idle", config)
            _next(f"{run} {first}purges its rows once nothing holds them, and writes the certificate")
        case RequestState.PURGED if report["certificate"]:
            _next(f"{_call('certificate show ' + str(report['certificate']), config)} shows its certificate")


def _next(text: str) -> None:
    tell(f"next: {text}")


def _call(verb: str, config: Path) -> str:
    return f"`hybridmu {verb} -c {shlex.quote(str(config))}`"
