"""The system of a configuration file, for the time of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hybridmu.cli.output import errors

if TYPE_CHECKING:
    from hybridmu.system.system import System


@contextmanager
def open_system(
    config_file: Path, as_json: bool, *, local: bool | None = True, interrupted: str = "nothing was changed"
) -> Iterator[System]:
    """Open a system; errors become messages with an exit code.

    Args:
        config_file: The YAML configuration.
        as_json: Whether an error is printed as one JSON document as well.
        local: Whether work is done in this process; None: unless a cluster is there.
        interrupted: What an interrupt leaves, and how to go on.

    Yields:
        The system.
    """
    with errors(as_json, interrupted):
        from hybridmu import config  # late: a verb's help is shown without them
        from hybridmu.system.system import connect

        with connect(config.load(config_file), executor_named(local)) as system:
            yield system


def executor_named(local: bool | None) -> Literal["auto", "ray", "local"]:
    """Return the executor that `--local`, `--ray`, or neither of them asks for."""
    return "auto" if local is None else "local" if local else "ray"
