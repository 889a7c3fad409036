"""`hybridmu data …`: built-in real datasets."""

from __future__ import annotations

import typer

from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import bar, emit, errors, tell
from hybridmu.datasets import catalog

app = typer.Typer(no_args_is_help=True, help="Built-in real datasets.")


@app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """List the built-in datasets."""
    found = {name: catalog.describe(name).about for name in catalog.names()}
    emit(found, as_json, lambda: tell("\n".join(f"{name:8} {about}" for name, about in found.items())))


@app.command("get")
def data_get(name: str, as_json: JsonOption = False) -> None:
    """Fetch a dataset if need be, check its sha256, convert it to Parquet once."""
    with errors(as_json, "the same command starts over"), bar(f"preparing {name}"):
        catalog.describe(name)
        folder = catalog.get(name)
    emit({"name": name, "folder": str(folder)}, as_json, lambda: tell(str(folder)))
