"""`hybridmu config …`: the JSON schema of the configuration, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import emit, errors, out

app = typer.Typer(no_args_is_help=True, help="Configuration: its JSON schema, for editors.")


@app.command()
def schema(
    config_file: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="Configuration whose plugins are imported, so that their names are in it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the JSON schema of the configuration: keys, types, bounds, defaults and meanings."""
    with errors(as_json):
        from hybridmu.config.schema import settings_schema
        from hybridmu.config.settings import register_plugins
        from hybridmu.config.yaml_document import read_document

        register_plugins(read_document(config_file) if config_file else {})
        found = settings_schema()
    text = json.dumps(found, indent=2, ensure_ascii=False)
    emit(found, as_json, lambda: print(text, file=out.file))
