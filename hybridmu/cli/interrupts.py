"""Interrupts while a command is still being imported: nothing was begun, and one sentence says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # 128 and the number of the signal


@contextmanager
def importing(as_json: bool) -> Iterator[None]:
    """End the process in one sentence when an interrupt comes inside.

    Args:
        as_json: Whether it is printed on standard output as one JSON document as well.

    Yields:
        Nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        what = "nothing was changed"
        if as_json:
            print(json.dumps({"error": "Interrupted", "what": what, "expected": "", "got": "", "remedy": ""}))
        print(f"interrupted: {what}", file=sys.stderr)
        sys.exit(INTERRUPTED)
