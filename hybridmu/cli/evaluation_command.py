"""`hybridmu evaluate`: how right the served version answers, with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, print_table, tell
from hybridmu.cli.system_access import open_system
from hybridmu.core.metrics import METRICS, figure, name_of, targets_of
from hybridmu.extras import extra
from hybridmu.types.text import visible


def evaluate(
    config_file: ConfigOption,
    output: Annotated[Path, typer.Option("--output", help="HTML page with confusion matrix, or residuals.")] = Path(
        "runs/evaluation.html"
    ),
    as_json: JsonOption = False,
) -> None:
    """Measure the served version on every held-out row that is not forgotten, and write a page of it."""
    with open_system(config_file, as_json) as system:
        with extra("report"):
            from hybridmu.report.evaluation_page import page
        result = system.evaluate()
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(result))
    emit({**result, "page": str(output)}, as_json, lambda: _show(result, output))


def _show(result: dict[str, Any], output: Path) -> None:
    for split, found in result["splits"].items():
        names = [name for name in METRICS if name in found["ensemble"]]
        table = Table("", *(METRICS[name].words for name in names), title=f"{found['rows']:,} {split} rows")
        table.add_row(f"version {result['version']}", *(figure(name, found["ensemble"][name]) for name in names))
        for target in targets_of(found["ensemble"]):
            of_it = (figure(name, found["ensemble"][name_of(name, target)]) for name in names)
            table.add_row(f"of {visible(target)}", *of_it)
        for sub in found["sub_models"]:
            table.add_row(f"shard {sub['shard']} alone", *(figure(name, sub[name]) for name in names))
        print_table(table)
    tell(f"{'residuals' if 'target' in result else 'confusion matrix and calibration'}: {output}")
