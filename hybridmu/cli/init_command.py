"""`hybridmu init`: a first configuration from a look at a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hybridmu.cli.options import JsonOption
from hybridmu.cli.output import emit, errors, print_table, tell
from hybridmu.errors import ConfigError


def init(
    table: Annotated[Path, typer.Argument(help="Table: a Parquet, Arrow IPC or CSV file, or a folder of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="YAML file to write; it must not be there.")] = Path(
        "hybridmu.yaml"
    ),
    id: Annotated[str | None, typer.Option("--id", help="Column that tells rows apart; guessed by default.")] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Column of the person a row belongs to; guessed by default.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Column of the classes to learn; guessed by default.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column of the numbers to learn; guessed by default.")
    ] = None,
    storage: Annotated[
        Path | None, typer.Option("--storage", help="Folder of the system; beside the YAML file by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a table and write a commented configuration for it; nothing else is changed."""  # noqa: DOC501
    with errors(as_json):
        from hybridmu.system.first_config import first_config

        if label is not None and target is not None:
            raise ConfigError("--label and --target exclude each other", remedy="name the one that is to be learned")
        if output.exists():
            raise ConfigError(f"{output} is there already", remedy="name another file: -o FILE")
        place = storage or output.absolute().with_name(f"{output.stem}-system")
        found = first_config(
            str(table.absolute()), str(place.absolute()), id=id, group=group, label=label, target=target
        )
        output.write_text(found.text)
    document = {"written": str(output), "columns": found.columns, "next": f"hybridmu train -c {output}"}
    emit(document, as_json, lambda: _show(found.columns, output))


def _show(columns: dict[str, str], output: Path) -> None:
    shown = Table("column", "taken for")
    for name, role in columns.items():
        shown.add_row(name, role)
    print_table(shown)
    tell(f"written: {output}")
    tell(f"next: read it, then `hybridmu train -c {output}`")
