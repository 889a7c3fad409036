"""Entry point of `hybridmu`, which reports an interrupt during the imports in one sentence too."""

from __future__ import annotations

import json
import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from hybridmu.cli.main import app  # late: it imports everything
    except KeyboardInterrupt:
        what = "nothing was changed"
        if "--json" in sys.argv:
            print(json.dumps({"error": "Interrupted", "what": what, "expected": "", "got": "", "remedy": ""}))
        print(f"interrupted: {what}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    app()
