"""`hybridmu size`: number of workers that a load of deletions needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption, StrategyOption, strategy_named
from hybridmu.cli.output import emit, errors, print_table, tell
from hybridmu.errors import ConfigError
from hybridmu.extras import extra
from hybridmu.system.system import connect

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def size(
    config_file: ConfigOption,
    per_day: Annotated[float, typer.Option("--requests-per-day", help="Mean number of deletion requests a day.")],
    deadline: Annotated[
        str, typer.Option("--deadline", help="Time from a request to its exact removal: 90s, 15m, 24h, 30d.")
    ],
    rows: Annotated[int, typer.Option("--rows", help="Number of rows in each request.")] = 1,
    days: Annotated[float, typer.Option("--days", help="Days of simulated load.")] = 7.0,
    strategy: StrategyOption = "auto",
    workers: Annotated[
        list[int] | None, typer.Option("--workers", help="Number of workers to try; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the simulated load.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", help="Path of an HTML page to write as well.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a load of deletions with the costs that this system measured; nothing is changed."""
    with errors(as_json):
        chosen, allowed = strategy_named(strategy), _seconds(deadline)
        with connect(config.load(config_file), "local") as system:
            found = system.size(per_day, allowed, rows=rows, days=days, strategy=chosen, workers=workers, seed=seed)
        if output is not None:
            with extra("report"):
                from hybridmu.report.size_page import page
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(page(found, allowed))
    document = found if output is None else {**found, "page": str(output)}
    emit(document, as_json, lambda: _show(found, deadline, output))


def _seconds(text: str) -> float:
    """Return a length of time as seconds."""  # noqa: DOC501
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        raise ConfigError("--deadline is not a length of time", expected="90s, 15m, 24h or 30d", got=text) from None


def _show(found: dict[str, Any], deadline: str, output: Path | None) -> None:
    table = Table(
        "workers", "served, p50", "p95", "exact, p95", "worst", f"later than {deadline}", "busy", "device-hours a day"
    )
    for one in found["sizes"]:
        times = [f"{one[name]:.3g} s" for name in ("served_p50", "served_p95", "exact_p95", "exact_worst")]
        busy, hours = f"{one['utilisation']:.1%}", f"{one['device_hours_per_day']:.3g}"
        table.add_row(str(one["workers"]), *times, str(one["late"]), busy, hours)
    print_table(table)
    each = f"{found['devices_per_worker']:g} {found['device']}"
    if found["workers"] is None:
        says = (
            "With none of them every request is in time: use more shards, an approximate strategy, or a later deadline."
        )
    else:
        load = f"{found['requests']} requests of {found['days']:.3g} days"
        says = f"{found['workers']} worker(s) of {each} each are enough for all {load}."
    rests = ", ".join(f"{name} {count}" for name, count in found["observations"].items())
    tell(f"{says}\nIt rests on measured jobs ({rests}) on this machine's devices.")
    if output is not None:
        tell(f"page: {output}")
