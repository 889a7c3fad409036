"""`hybridmu suggest`: the price list of forgetting, and the configuration that one picks from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import bar, emit, print_table, tell
from hybridmu.cli.system_access import open_system
from hybridmu.config.yaml_document import read_document
from hybridmu.core.metrics import METRICS, figure
from hybridmu.errors import ConfigError
from hybridmu.extras import extra
from hybridmu.planning.price_list import with_changes


def suggest(
    config_file: ConfigOption,
    rows: Annotated[int, typer.Option("--rows", help="Number of training rows to try with at most.")] = 20_000,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds after which nothing further is tried.")] = 300.0,
    output: Annotated[Path, typer.Option("--output", help="HTML page of the price list.")] = Path("runs/prices.html"),
    pick: Annotated[
        str | None, typer.Option("--pick", help="Name of the way to train whose configuration is written to --write.")
    ] = None,
    write: Annotated[Path, typer.Option("--write", help="YAML file for --pick; it must not be there.")] = Path(
        "picked.yaml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Try a few ways to train on a sample, and show quality beside the cost of forgetting; changes no system."""  # noqa: DOC501
    with open_system(config_file, as_json) as system, bar("trying") as advance:
        with extra("report"):
            from hybridmu.report.price_page import page
        if pick is not None and write.exists():
            raise ConfigError(f"{write} is there already", remedy="name another file: --write")
        result = system.suggest(
            rows=rows, seconds=seconds, watch=lambda done, total, name: advance(done, total, f"trying {name}")
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(result))
        if pick is not None:
            _write(config_file, result, pick, write)
    document = {**result, "page": str(output), "picked": str(write) if pick else None}
    emit(document, as_json, lambda: _show(result, output, write if pick else None))


def _write(config_file: Path, result: dict[str, Any], pick: str, path: Path) -> None:
    """Write the configuration with what was picked; storage keeps its name, so that nothing is trained twice."""  # noqa: DOC501
    known = {offer["name"]: offer for offer in result["offers"]}
    if pick not in known:
        raise ConfigError(f"{pick} was not tried", expected=f"one of {', '.join(known)}")
    made = with_changes(read_document(config_file), known[pick]["candidate"]["changes"])
    path.write_text(yaml.safe_dump(made, sort_keys=False))


def _show(result: dict[str, Any], output: Path, picked: Path | None) -> None:
    score = result["metrics"][0]
    table = Table("way", METRICS[score].words, "alone", "training", "forget a row", "a person", "1 in 100", "best")
    for offer in result["offers"]:
        prices = [_price(offer[name]) for name in ("row", "person", "hundredth")]
        shares = (figure(score, offer[name]) for name in ("score", "single_score"))
        best = "*" if offer["front"] else ""
        table.add_row(offer["name"], *shares, f"{offer['training_seconds']:.3g} s", *prices, best)
    print_table(table)
    tell(
        f"tried on {result['rows']:,} rows ({result['share']:.0%}), seconds in proportion to all; "
        f"*: no other way is better in both {METRICS[score].words} and cost. {result['offers'][0]['exactness']}"
    )
    if result["untried"]:
        tell(f"not tried, for want of time (--seconds): {', '.join(result['untried'])}")
    tell(f"picture: {output}")
    tell(f"written: {picked}" if picked else "next: the same command with --pick NAME writes a configuration")


def _price(price: dict[str, float] | None) -> str:
    return "" if price is None else f"{price['seconds']:.3g} s, {price['device_seconds']:.3g} device-s"
