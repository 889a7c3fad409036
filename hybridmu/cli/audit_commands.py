"""`hybridmu audit`: measurement of how well a strategy forgets, on canaries, with controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import STRATEGIES, ConfigOption, JsonOption, LocalOption, strategy_named
from hybridmu.cli.output import bar, emit, err, errors, print_table, tell
from hybridmu.cli.system_access import executor_named
from hybridmu.errors import ConfigError
from hybridmu.extras import extra
from hybridmu.system.system import connect

_GOES_ON = "finished shadow models are kept, and the same command goes on from there"


def audit(
    config_file: ConfigOption,
    strategy_: Annotated[
        str | None,
        typer.Option(
            "--strategy", help=f"Audited strategy: one of {STRATEGIES}; the first of policy.approximate by default."
        ),
    ] = None,
    share: Annotated[float, typer.Option("--share", help="Share of a shard's live rows that become canaries.")] = 0.01,
    models: Annotated[int, typer.Option("--models", help="Number of shadow models of each kind and shard.")] = 30,
    shards: Annotated[int, typer.Option("--shards", help="Largest number of audited shards.")] = 2,
    output: Annotated[Path, typer.Option("--output", help="Path of the HTML page to write.")] = Path("audit.html"),
    as_json: JsonOption = False,
    local: LocalOption = None,
) -> None:
    """Measure how well a strategy forgets; fails when the audit could not tell it from doing nothing.

    Live rows play the part of forgotten ones in throw-away copies of some shards. Interrupted, it goes on when it is
    called again.
    """  # noqa: DOC501
    with errors(as_json, _GOES_ON), extra("report"):
        # Plots: the other verbs do without.
        from hybridmu.report.audit_page import headline, lines, page, served, strategy

    with errors(as_json, _GOES_ON), connect(config.load(config_file), executor_named(local)) as system:
        wanted = None if strategy_ is None else strategy_named(strategy_)
        if output.is_dir():
            raise ConfigError(f"--output {output} is a folder", expected="the HTML file to write")
        output.parent.mkdir(parents=True, exist_ok=True)  # known to be possible before an hour's work
        with bar("audit: starting") as advance:

            def announce(seconds: float, workers: int) -> None:
                err.print(f"about {_duration(seconds)} on {workers} worker(s)")

            def watch(done: int, total: int, left: float) -> None:
                advance(done, total, f"audit: shadow models, about {_duration(left)} left")

            result = system.audit(
                strategy=wanted,
                share=share,
                models=models,
                shards=shards,
                announce=announce,
                watch=watch,
            )
        output.write_text(page(result))

    def say() -> None:
        table = Table("figure", strategy(result), "never saw them", "did nothing")
        for line in lines(result):
            table.add_row(line.name, line.unlearned, line.oracle, line.nothing)
        print_table(table)
        for sentence in [headline(result), *served(result), f"What each figure says: {output}"]:
            tell(sentence)

    emit({**result, "page": str(output)}, as_json, say)
    if not result["telling"]:
        raise typer.Exit(1)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
