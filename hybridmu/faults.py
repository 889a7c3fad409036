"""Named fault points: where a test may kill this process, or make a write fail.

Between any two durable writes the code calls `reach(NAME)`. Nothing listens outside of tests, and a call costs less
than 100 ns. What each point proves is told in docs/faults.md.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

from hybridmu.errors import ConfigError

# Write transactions of the ledger: NAME.commit is reached before the commit, NAME.committed after it.
TRANSACTIONS = (
    "accept",
    "approve",
    "calibration",
    "cancel",
    "evaluation",
    "finish",
    "forward",
    "grow",
    "grown",
    "ingest",
    "lease",
    "link",
    "note",
    "passed",
    "planned",
    "proof",
    "publish",
    "purged",
    "satisfy",
    "scrub",
    "seal",
    "sealed",
    "served",
    "take",
    "train",
)
# Files in storage, and what the coordinator decides in between.
_OTHERS = (
    "blob.write",
    "blob.stored",
    "calibrate.launch",
    "certificate.link",
    "certificate.appended",
    "compact.done",
    "evict.dropped",
    "file.opened",
    "file.written",
    "file.renamed",
    "file.move",
    "file.moved",
    "file.deleted",
    "forward.accepted",
    "heal.launch",
    "ingest.cleared",
    "ingest.published",
    "ingest.manifest",
    "job.submit",
    "job.result",
    "key.link",
    "key.linked",
    "lineage.recorded",
    "link.half",
    "link.brought",
    "purge.begin",
    "purge.index",
    "purge.rows",
    "purge.swept",
    "purge.looked",
    "repair.launch",
    "round.launch",
    "step",
)
POINTS = tuple(sorted([f"{name}.{when}" for name in TRANSACTIONS for when in ("commit", "committed")] + [*_OTHERS]))

Action = Callable[[], None]
_observer: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Say that the process is at a fault point; does nothing unless a test listens."""
    if _observer is not None:
        _observer(name)


def observe(observer: Callable[[str], None] | None) -> None:
    """Call a function with every fault point that this process reaches; None ends it."""
    global _observer
    _observer = observer


def arm(name: str, hit: int, action: Action | None = None) -> None:
    """Do something when a fault point is reached for the `hit`-th time, once.

    Args:
        name: One of `POINTS`.
        hit: 1 is the next time.
        action: What to do there, in the thread that reaches it; by default the process is killed as by `kill -9`.

    Raises:
        ConfigError: There is no such point.
    """
    if name not in POINTS:
        raise ConfigError(f"there is no fault point {name!r}", expected="a name in hybridmu.faults.POINTS")
    left = hit
    act = action or kill

    def count(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                act()

    observe(count)


def arm_text(text: str) -> None:
    """Arm what an environment variable of a test says: `POINT:HIT:kill`, `…:kill-group`, `…:full` or `…:sleep`.

    Raises:
        ConfigError: It says something else.
    """
    name, _, rest = text.partition(":")
    hit, _, action = rest.partition(":")
    if not hit.isdigit() or action not in ACTIONS:
        raise ConfigError("a fault can't be armed", expected=f"POINT:HIT:ACTION, one of {[*ACTIONS]}", got=text)
    arm(name, int(hit), ACTIONS[action])


def kill() -> None:
    """End this process at once, as `kill -9` does: nothing is flushed, closed or given back."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_group() -> None:
    """End this process and all that it started, as a node that loses its power."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def fill_disk() -> None:
    """Fail as a write to a full disk does.

    Raises:
        OSError: Always.
    """
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sleep() -> None:
    time.sleep(1.0)


ACTIONS: dict[str, Action] = {"kill": kill, "kill-group": kill_group, "full": fill_disk, "sleep": _sleep}
