"""The terminal: text of callers is shown as it is, and never read as markup or as a control sequence."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

from hybridmu.types.text import visible


class Terminal(Console):
    """A console on which `[/b]` is four letters, and an escape character is shown and not sent.

    Args:
        options: As of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text to print, in cells of tables too; line breaks stay."""
        return super().render_str(visible(text, keep="\n\t"), **options)


class Description(TextColumn):
    """The column of a progress bar that says what is done."""

    def __init__(self) -> None:
        super().__init__("{task.description}", markup=False)

    def render(self, task: Any) -> Text:
        """Return what is done, in one line."""
        return Text(visible(str(task.description)))
