"""`hybridmu demo`: the whole life of a system, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import emit, err, errors
from hybridmu.extras import extra


def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder of the report; its old content is removed.")] = Path(
        "runs/demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train, forget, prove and serve on real digits, and write a report."""  # noqa: DOC501
    with errors(as_json, "the same command starts over"):
        with extra("datasets", "report", "serve"):
            from hybridmu.demo import run_demo  # an extra may be missing
        result = run_demo(output, err)
    emit(result, as_json, lambda: None)
    if not result["ok"]:
        raise typer.Exit(1)
