"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridmu.errors import ConfigError
from hybridmu.kinds import choices

if TYPE_CHECKING:
    from hybridmu.types import StrategyChoice

STRATEGIES = ", ".join(choices())


def _config() -> Path:
    from hybridmu.config import config_of_commands  # late: help is shown without it

    return Path(config_of_commands())


ConfigOption = Annotated[
    Path,
    typer.Option(
        "-c",
        "--config",
        default_factory=_config,
        show_default="hybridmu.yaml",
        help="Path of the YAML configuration; HYBRIDMU_CONFIG names another default.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
LocalOption = Annotated[
    bool | None,
    typer.Option(
        "--local/--ray", help="Run in this process, or on a cluster; by default on a cluster where one is there."
    ),
]
StrategyOption = Annotated[str, typer.Option("--strategy", help=f"Removal strategy: one of {STRATEGIES}.")]
IdOption = Annotated[list[str] | None, typer.Option("--id", help="Row id; may be repeated.")]
GroupOption = Annotated[list[str] | None, typer.Option("--group", help="Group; may be repeated.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="Idempotency key: a repeated command with it is the same request.")
]
CallerOption = Annotated[
    str | None, typer.Option("--caller", help="Name of the caller; the user name of this session by default.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, written to the log.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Confirm; without it nothing is done.")]


def strategy_named(name: str) -> StrategyChoice:
    """Return a strategy by its name.

    Args:
        name: From the command line.

    Raises:
        ConfigError: There is no such strategy.
    """
    if name not in choices():
        raise ConfigError(f"unknown strategy {name!r}", expected=f"one of {', '.join(choices())}")
    return name
