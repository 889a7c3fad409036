"""Entry point of `hybridmu`, which reports an interrupt during the imports in one sentence too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hybridmu.cli.interrupts import importing, keep_interrupts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Verb and options; those of this process by default.
    """
    keep_interrupts()
    words = sys.argv[1:] if arguments is None else list(arguments)
    with importing("--json" in words):
        from hybridmu.cli.main import app  # late: an interrupt meanwhile is told as well
    app(words)
