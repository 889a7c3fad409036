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
_CLEAN_UP = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"
# Pages about a system that is there already call its configuration CONFIG.
_SYSTEM = """
cat > CONFIG <<'YAML'
data: {name: digits, validation_fraction: 0.1}
task: {name: mlp, hidden: [32]}
sisa: {shards: 3, slices: 2, epochs: 4}
policy: {calibrate: false}
storage_url: storage
YAML
hybridmu train -c CONFIG --local
"""
_PURGED = (
    _SYSTEM
    + """
hybridmu forget -c CONFIG --id 44 --wait --local
hybridmu run -c CONFIG --until-idle --local
mkdir folder-with-all-certificates
hybridmu certificate show 1 -c CONFIG | tee folder-with-all-certificates/1.json > 00000012.json
cp storage-keys/signing-0001.pub.pem operator.pub.pem
"""
)
_MODELS = """
for model in A B OLD NEW; do cat > $model.yaml <<YAML
data: {name: digits, validation_fraction: 0.1}
task: {name: mlp, hidden: [$((${#model} * 8))]}
sisa: {shards: ${#model}, slices: 2, epochs: 2}
policy: {calibrate: false}
keys: {folder: keys}
storage_url: $model
YAML
done
for model in A B OLD; do hybridmu train -c $model.yaml --local; done
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "before", "words"),
    [
        ("own-data.md", "", ("trained", "bitwise", "worker(s) of 1 CPU each are enough")),
        ("operator.md", "", ("trained", "SERVED", "bitwise")),
        ("auditor.md", "", ("id 44: 2", "id 46: none", "superseded by certificate 2", "all proven bit for bit")),
        ("api.md", _SYSTEM, ('"state":"RECEIVED"',)),
        ("certificate.md", _PURGED, ("Certificate 1 of system", "Replay: confirmed")),
        ("storage.md", _SYSTEM, ("0 kept, 2 lost", "no checkpoint is lost")),
        ("models.md", _MODELS, ("B: ", "B is retired", "models retire OLD")),
        ("keys.md", _SYSTEM, ("signing key", "guard key", "in use")),
    ],
)
def test_every_command_of_a_page_works_in_order(page: str, before: str, words: tuple[str, ...], tmp_path: Path) -> None:
    text = (PROJECT / "docs" / page).read_text()
    blocks = _BLOCK.findall(text)
    assert blocks
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HYBRIDMU_")}
    env = kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            "\n".join([_CLEAN_UP, before, *blocks]),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in words:
        assert word in done.stdout, f"{word!r} is not in:\n{done.stdout}"
