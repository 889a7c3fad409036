"""`hybridmu doctor`: what works here and what doesn't, with what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, errors, print_table, tell

_STYLES = {"ok": "green", "note": "yellow", "wrong": "red"}


def doctor(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Look at installation, configuration and system, and say what to do; fails when something is wrong."""  # noqa: DOC501
    with errors(as_json):
        from hybridmu.system.examination import examined

        found = list(examined(config_file))
    wrong = sum(one.state == "wrong" for one in found)

    def say() -> None:
        table = Table("", "state", "found")
        for one in found:
            says = f"{one.says}\n{one.remedy}" if one.remedy else one.says
            table.add_row(one.about, Text(one.state, _STYLES[one.state]), says)
        print_table(table)
        tell(f"{wrong} thing(s) wrong" if wrong else "nothing is wrong")

    emit({"wrong": wrong, "findings": [asdict(one) for one in found]}, as_json, say)
    if wrong:
        raise typer.Exit(1)
