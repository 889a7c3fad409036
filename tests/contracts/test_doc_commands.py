"""Every command of the pages that promise so is run as it stands, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("own-data.md", ("trained", "bitwise", "worker(s) of 1 CPU each are enough")),
        ("operator.md", ("trained", "SERVED", "bitwise")),
    ],
)
def test_every_command_of_a_page_works_in_order(page: str, words: tuple[str, ...], tmp_path: Path) -> None:
    text = (PROJECT / "docs" / page).read_text()
    blocks = _BLOCK.findall(text)
    assert blocks
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HYBRIDMU_")}
    env = kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in words:
        assert word in done.stdout, f"{word!r} is not in:\n{done.stdout}"
