"""Fault points cost nothing until a test listens, and then strike once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridmu import faults
from hybridmu.errors import ConfigError
from tests.support import HANG_SECONDS


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.observe(None)


def test_a_point_costs_little_more_than_a_call() -> None:
    def nothing(_: str) -> None:
        pass

    def seconds(function: object) -> float:
        return min(timeit.repeat(lambda: [function("step") for _ in range(1000)], number=20, repeat=7)) / 20_000  # type: ignore[operator]

    assert seconds(faults.reach) < max(100e-9, 2 * seconds(nothing))


def test_an_armed_point_strikes_at_its_hit_and_never_again() -> None:
    struck: list[int] = []
    faults.arm("take.commit", 2, lambda: struck.append(1))
    for name in ("take.commit", "step", "take.commit", "take.commit", "take.commit"):
        faults.reach(name)
    assert struck == [1]


def test_names_and_texts_are_checked() -> None:
    assert len(set(faults.POINTS)) == len(faults.POINTS)
    with pytest.raises(ConfigError, match="no fault point"):
        faults.arm("nowhere", 1)
    for text in ("step", "step:x:kill", "step:1:dance", "nowhere:1:kill"):
        with pytest.raises(ConfigError):
            faults.arm_text(text)


def test_a_full_disk_can_be_played() -> None:
    faults.arm_text("blob.write:1:full")
    with pytest.raises(OSError, match="No space") as caught:
        faults.reach("blob.write")
    assert caught.value.errno == errno.ENOSPC


def test_a_process_is_armed_by_its_environment() -> None:
    code = "from hybridmu import config, faults; faults.reach('step'); print('once', flush=True); faults.reach('step')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HYBRIDMU_FAULT": "step:2:kill"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert (done.stdout, done.returncode) == ("once\n", -signal.SIGKILL), done.stderr
