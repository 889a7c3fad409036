"""Entry point of `hybridmu`, which reports an interrupt during the imports in one sentence too."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Verb and options; those of this process by default.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        from hybridmu.cli.main import app  # late: it imports everything
    except KeyboardInterrupt:
        what = "nothing was changed"
        if "--json" in words:
            print(json.dumps({"error": "Interrupted", "what": what, "expected": "", "got": "", "remedy": ""}))
        print(f"interrupted: {what}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    app(words)
