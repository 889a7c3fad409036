"""Lines that Ray's workers run: they are killed without a farewell, so what was measured is saved again and again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import coverage

_SECONDS = 2.0
_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"  # Ray's name for what a worker calls first


def measure_workers() -> None:
    """Have workers of Ray, started from here on, save what they measure, if anything is measured at all."""
    if coverage.Coverage.current() is not None:
        here = str(Path(__file__).parents[1])  # workers call the hook before they know where the driver imports from
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        os.environ[_HOOK] = f"{__name__}.{save_often.__name__}"


def save_often() -> None:
    """Save what this process measures, until it ends."""
    current = coverage.Coverage.current()
    if current is not None:
        threading.Thread(target=_save, args=(current,), daemon=True, name="coverage").start()


def _save(current: coverage.Coverage) -> None:
    while True:
        time.sleep(_SECONDS)
        current.save()
