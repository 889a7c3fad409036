"""`hybridmu checkpoints`, `upgrade`, `ledger …`, `decommission`: maintenance of storage and ledger."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption, ReasonOption, YesOption
from hybridmu.cli.output import emit, errors, operator, tell
from hybridmu.errors import ConfigError
from hybridmu.system.system import connect

ledger = typer.Typer(no_args_is_help=True, help="Repair of ledger and tables after a restore.")


def checkpoints(
    config_file: ConfigOption,
    apply: Annotated[
        bool, typer.Option("--apply", help="Delete the listed checkpoints; without it nothing is changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which checkpoints checkpoints.budget_bytes makes us delete, and what the next deletion costs then."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.checkpoints(apply=apply)

    def say() -> None:
        lines = [result["explanation"]]
        lines.append(f"That is {result['seconds_after']:.3g} s on one worker, {result['seconds_before']:.3g} s before.")
        if result["evicted"]:
            lines.append("They are deleted." if apply else "Nothing was changed; --apply deletes them.")
        tell("\n".join(lines))

    emit(result, as_json, say)


def upgrade(
    config_file: ConfigOption,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the cost in lost checkpoints; nothing is changed.")
    ] = False,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="PACKAGE=VERSION after the upgrade, with --plan; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rewrite tables of an earlier release; with --plan show what code and libraries cost in lost checkpoints."""  # noqa: DOC501
    with errors(as_json):
        if with_ and not plan:
            raise ConfigError(
                "--with needs --plan",
                expected="hybridmu upgrade --plan --with PACKAGE=VERSION",
                remedy="add --plan; the packages themselves are installed by pip",
            )
        versions = dict(map(_package, with_ or []))
        with connect(config.load(config_file), "local") as system:
            if not plan:
                count = system.rewrite_tables()
                emit({"tables": count}, as_json, lambda: tell(_rewritten(count)))
                return
            found = system.upgrade(versions)
    emit(asdict(found), as_json, lambda: tell(found.explain()))


def _rewritten(count: int) -> str:
    if count:
        return f"{count} table file(s) of an earlier release were rewritten. Nothing is trained again."
    return "Every table is as this release writes them."


@ledger.command()
def replay(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Give a ledger that was restored from a backup what storage has acted on since."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.replay()
    found = f"{result['requests']} request(s), {result['tombstones']} tombstone(s), version {result['version']}"

    def say() -> None:
        tell(f"{found}. `hybridmu run` goes on from here.")
        if result["unsettled"]:
            names = ", ".join(result["unsettled"])
            tell(f"Not asked what they know: {names}. Link them again: `hybridmu models link`.")

    emit(result, as_json, say)


@ledger.command()
def mend(
    name: Annotated[str, typer.Argument(help="Name of the damaged file in storage, as the error shows it.")],
    copy: Annotated[Path, typer.Argument(help="Path of a copy of it, which may be older than purges.")],
    config_file: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Make a damaged table or index file again from a copy, without what was purged since."""
    with errors(as_json), connect(config.load(config_file), "local") as system:
        result = system.mend(name, copy)
    said = f"{name} is what was recorded; {result['left_out']} row(s) of the copy were purged since, and left out"
    emit(result, as_json, lambda: tell(said))


def decommission(
    config_file: ConfigOption,
    reason: ReasonOption,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget everything: stop serving, delete every row, checkpoint and version. Certificates and the guard stay."""  # noqa: DOC501
    with errors(as_json):
        if not yes:
            raise ConfigError(
                "decommissioning deletes all data and models of the system for good", remedy="add --yes to confirm"
            )
        with connect(config.load(config_file), "local") as system:
            result = system.decommission(reason, operator())
    emit(
        result,
        as_json,
        lambda: tell(
            f"{result['files_deleted']} file(s) deleted, {result['certificates_kept']} certificate(s) kept",
        ),
    )


def _package(text: str) -> tuple[str, str]:
    name, _, version = text.partition("=")
    version = version.lstrip("=").strip()
    if not name.strip() or not version:
        raise ConfigError(f"--with {text} has no version", expected="PACKAGE=VERSION, such as torch=2.14.0")
    return name.strip(), version
