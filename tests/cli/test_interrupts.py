"""An interrupt that Python drops inside a callback ends the command all the same."""

from __future__ import annotations

import subprocess
import sys

CALLBACK = """
import signal, sys, time, weakref
from hybridmu.cli.interrupts import keep_interrupts
keep_interrupts()

class Thing: pass

def callback(_):
    signal.raise_signal(signal.SIGINT)

thing = Thing()
kept = weakref.ref(thing, callback)
try:
    del thing
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(7)
"""

DESTRUCTOR = """
from hybridmu.cli.interrupts import keep_interrupts
keep_interrupts()

class Thing:
    def __del__(self):
        raise ValueError("told as before")

thing = Thing()
del thing
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_an_interrupt_within_a_weak_references_callback_is_raised_again():
    done = python(CALLBACK)
    assert done.returncode == 7, done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_other_exceptions_of_callbacks_are_told():
    done = python(DESTRUCTOR)
    assert done.returncode == 0
    assert "told as before" in done.stderr
