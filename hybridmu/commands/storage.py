"""`hybridmu checkpoints` and `hybridmu upgrade`: which checkpoints would go, and what the next deletion costs then."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hybridmu import config
from hybridmu.commands.console import ConfigOption, JsonOption, emit, errors, out
from hybridmu.errors import ConfigError
from hybridmu.system import connect


def checkpoints(
    config_file: ConfigOption,
    apply: Annotated[bool, typer.Option("--apply", help="Delete them; without it nothing is changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which checkpoints go to keep checkpoints.budget_bytes, and what the next deletion costs then."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.checkpoints(apply=apply)

    def say() -> None:
        lines = [result["explanation"]]
        lines.append(f"That is {result['seconds_after']:.3g} s on one worker, {result['seconds_before']:.3g} s before.")
        if result["evicted"]:
            lines.append("They are deleted." if apply else "Nothing was changed; --apply deletes them.")
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    emit(result, as_json, say)


def upgrade(
    config_file: ConfigOption,
    plan: Annotated[bool, typer.Option("--plan", help="Show what it costs; nothing else is done.")] = False,
    with_: Annotated[
        list[str] | None, typer.Option("--with", help="PACKAGE=VERSION after the upgrade; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an upgrade of code or libraries costs in lost checkpoints; without --with, that of this environment."""
    with errors(as_json):
        if not plan:
            raise ConfigError(
                "an upgrade is only planned here",
                expected="hybridmu upgrade --plan",
                remedy="add --plan; the packages themselves are installed by pip",
            )
        versions = dict(map(_package, with_ or []))
        with connect(config.load(config_file), "local") as system:
            found = system.upgrade(versions)
    emit(asdict(found), as_json, lambda: out.print(found.explain(), markup=False, highlight=False, soft_wrap=True))


def _package(text: str) -> tuple[str, str]:
    name, _, version = text.partition("=")
    version = version.lstrip("=").strip()
    if not name.strip() or not version:
        raise ConfigError(f"--with {text} names no version", expected="PACKAGE=VERSION, such as torch=2.14.0")
    return name.strip(), version
