"""`hybridmu demo`: a person is forgotten, on real reviews."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import emit, err, errors, out
from hybridmu.extras import extra


def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder of the report; its old content is removed.")] = Path(
        "runs/demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Forget a person's review, exactly and proven, and write a report."""  # noqa: DOC501
    with errors(as_json, "the same command starts over"):
        with extra("serve", "text"):
            for needed in ("fastapi", "tokenizers"):  # or they would be missed when much is done already
                import_module(needed)
            from hybridmu.demo import run_demo
            from hybridmu.demo.screen import show
        result = run_demo(output, err)
    emit(result, as_json, lambda: show(out, result, output))
    if not result["ok"]:
        raise typer.Exit(1)
