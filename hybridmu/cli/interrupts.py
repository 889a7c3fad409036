"""Interrupts that Python would lose, and those while a command is still being imported: one sentence tells of each."""

from __future__ import annotations

import _thread
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # 128 and the number of the signal
RAISED_AGAIN_S = 0.01  # after this many seconds the callback that swallowed an interrupt has returned


def keep_interrupts() -> None:
    """Have an interrupt raised again that came while a destructor or a weak reference's callback ran.

    Python prints an exception of such a callback and goes on, so that a single Ctrl-C would be lost. Other exceptions
    of callbacks are told as before.
    """
    tell = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            tell(dropped)
            return
        again = threading.Timer(RAISED_AGAIN_S, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


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
