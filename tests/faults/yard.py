"""A warm process that forks: everything is imported once, so that a life costs milliseconds, not seconds.

`python -m tests.faults.yard` reads one JSON order a line, {"call": "module:function", "args": {…}, "seconds": …},
runs the function in a fork of its own, and answers one line. It opens no database, reads no table and starts no
thread: what is not safe to fork happens in the forks.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import HANG_SECONDS

_PROJECT = Path(__file__).parents[2]


def fork(work: Callable[[int], None], seconds: float, *, group: bool = False) -> tuple[int, bytes]:
    """Run a function in a child that ends with it.

    Args:
        work: Gets a file descriptor to write to.
        seconds: After so long the child is killed.
        group: Make it the head of a process group, which is killed as a whole.

    Returns:
        How it ended, as `os.waitstatus_to_exitcode` says it (−9: killed), and all that it wrote.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            if group:
                os.setpgid(0, 0)
            work(writing)
            code = 0
        except BaseException:
            os.write(writing, b"\n" + json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        finally:
            os._exit(code)
    os.close(writing)
    end, said, ended = time.monotonic() + seconds, b"", False
    while not ended and (left := end - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            piece = os.read(reading, 1 << 16)
            said += piece
            ended = not piece
    if not ended:
        (os.killpg if group else os.kill)(child, signal.SIGKILL)
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def main() -> None:
    """Serve orders until standard input ends."""
    import torch

    torch.set_num_threads(1)
    for module in ("hybridmu.system.system", "hybridmu.store.keyring", "tests.faults.campaign", "tests.faults.mishaps"):
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a fork prints must not come between the answers
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        order = json.loads(line)

        def work(pipe: int, order: Any = order) -> None:
            module, _, name = order["call"].partition(":")
            found = getattr(importlib.import_module(module), name)(**order["args"])
            os.write(pipe, json.dumps({"result": found}).encode())

        code, said = fork(work, order["seconds"], group=True)
        answer = json.loads(said.strip().splitlines()[-1]) if said.strip() else {"error": f"ended with {code}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Yard:
    """A warm process, seen from a test; one order at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.yard"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_PROJECT
        )

    def call(self, function: str, seconds: float = HANG_SECONDS, **args: Any) -> Any:
        """Return what a function returns in a fork.

        Args:
            function: `module:name`.
            seconds: After so long it is killed with all that it started.
            args: JSON-able keyword arguments.

        Raises:
            AssertionError: It raised, or did not end in time.
        """
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None
        assert answers is not None
        pipe.write(json.dumps({"call": function, "args": args, "seconds": seconds}) + "\n")
        pipe.flush()
        while (line := answers.readline().strip()) == "ready":
            pass
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(HANG_SECONDS)


if __name__ == "__main__":
    main()
