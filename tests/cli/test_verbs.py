"""The table of verbs says what the commands say of themselves."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer.main

from hybridmu.cli.main import app
from hybridmu.cli.verbs import VERBS

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", VERBS)
def test_the_line_of_a_verb_is_the_first_paragraph_of_its_help(name):
    real = COMMANDS[name].real()
    assert real.name == COMMANDS[name].name == name
    assert VERBS[name].line == inspect.cleandoc(real.help).partition("\n\n")[0].replace("\n", " ")
    assert real.hidden == COMMANDS[name].hidden
    assert real.short_help is COMMANDS[name].short_help is None


def test_every_verb_is_in_the_list_of_commands():
    assert list(COMMANDS) == list(VERBS)
