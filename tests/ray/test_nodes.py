"""More than one node: who works where, and what the loss of one costs."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests import postgres
from tests.ray import support
from tests.support import HANG_SECONDS

WORDS = ["refused", "searched", "placed", "lost", "equal"]


@pytest.mark.slow
def test_a_lost_node_costs_time_and_no_bit(tmp_path: Path, postgresql: postgres.Server) -> None:
    support.config(tmp_path)
    # Such a cluster listens beyond loopback, so it asks for a token. A dead node refuses at once and is noticed in
    # seconds; one that is slow, because other work has its processor, is not taken for dead.
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_health_check_period_ms": "500"}
    env |= {"RAY_health_check_timeout_ms": "60000", "RAY_health_check_failure_threshold": "4"}
    with support.short_tmp() as folder, postgresql.database() as url:
        done = subprocess.run(
            [sys.executable, "-m", "tests.ray.nodes_script", str(tmp_path), url],
            cwd=support.PROJECT,
            env=os.environ | env | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line in WORDS] == WORDS
