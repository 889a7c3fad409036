"""Commands of the pages named here are run as they stand; what no page can know (ids, hosts, folders) is filled in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import running
from tests.support import HANG_SECONDS

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
# Labels by chance can only be learned by heart, so an audit has something to tell.
_BY_HEART = """
python -c '
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
draw = np.random.default_rng(0)
table = {f"x{n}": draw.normal(size=900).astype("float32") for n in range(8)}
pq.write_table(pa.table(table | {"id": np.arange(900), "label": draw.integers(0, 2, 900)}), "rows.parquet")
'
cat > CONFIG <<'YAML'
data: {train: rows.parquet, validation_fraction: 0.1}
task: {name: mlp, hidden: [64]}
sisa: {shards: 2, slices: 2, epochs: 20, batch_size: 16}
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
# Reviews of the form that `hybridmu data get reviews` writes, where it writes them.
_REVIEWS = """
python -c '
import pathlib
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
draw = np.random.default_rng(0)
said = {"Dresses": "dress hem knee floral", "Bottoms": "denim pockets zip leg", "Tops": "blouse sleeve collar button"}
folder = pathlib.Path.home() / ".cache/hybridmu/reviews"
folder.mkdir(parents=True)
for name, ids in (("train", range(600)), ("test", range(600, 700))):
    labels = draw.choice([*said], len(ids))
    texts = [" ".join(draw.choice((said[label] + " love the fit size").split(), 8)) for label in labels]
    numbers = {"age": draw.integers(18, 80, len(ids)), "rating": draw.integers(1, 6, len(ids))}
    table = numbers | {"review": texts, "department": labels, "id": [*ids]}
    pq.write_table(pa.table(table), folder / f"{name}.parquet")
'
"""
_PEOPLE = """
python -c '
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
draw = np.random.default_rng(0)
people = [("alice", "bob", "carol", "dave")[n] if n < 4 else f"p{n}" for n in range(300)]
table = {"id": np.arange(900), "person": np.repeat(people, 3), "label": draw.integers(0, 2, 900)}
table |= {f"x{n}": draw.normal(size=900).astype("float32") for n in range(8)}
pq.write_table(pa.table(table), "rows.parquet")
'
for model in CONFIG A.yaml B.yaml; do cat > $model <<YAML
data: {train: rows.parquet, group: person, validation_fraction: 0.1}
task: {name: mlp, hidden: [64]}
sisa: {shards: 2, slices: 2, epochs: 20, batch_size: 16}
policy: {calibrate: false}
keys: {folder: keys}
storage_url: storage-$model
YAML
hybridmu train -c $model --local; done
hybridmu forget -c CONFIG --group dave --wait --local
hybridmu run -c CONFIG --until-idle --local
hybridmu certificate show 1 -c CONFIG > 00000001.json
cp keys/signing-0001.pub.pem operator.pub.pem
hybridmu forget -c CONFIG --group carol
request() {  # one of those that nobody works on yet, by number
  hybridmu requests list -c CONFIG --state RECEIVED --json |
    python -c "import json, sys; print(json.load(sys.stdin)[$1]['request_id'])"
}
"""


def _commands(page: str, holding: str = "") -> str:
    """Return the shell blocks of a page, those that hold some words."""
    blocks = [block for block in _BLOCK.findall((PROJECT / page).read_text()) if holding in block]
    assert blocks
    return "\n".join(blocks)


def _run(script: str, folder: Path, *, binaries: Path | None = None) -> str:
    """Return what a shell script prints; it stops at the first error, and so does the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HYBRIDMU_")}
    path = [str(Path(sys.executable).parent), *([str(binaries)] if binaries else []), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{_CLEAN_UP}\n{script}"],
        cwd=folder,
        env=kept | {"PATH": ":".join(path), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "before", "words"),
    [
        ("own-data.md", "", ("trained", "probability_apart", "bitwise", "worker(s) of 1 CPU each are enough")),
        ("closed-form.md", "", ("trained", "equal bits either way", "subtract", "SERVED", "proven bit for bit")),
        ("scikit-learn.md", "", ("the same bits: True", "PURGED", "Certificate 1 of")),
        (
            "tutorial.md",
            _REVIEWS,
            ("trained", "Dresses", "subtract", "SERVED", "proven bit", "Certificate 1 of"),
        ),
        ("regression.md", "", ("trained", "SERVED", "proven bit for bit", "subtract")),
        ("laptop.md", "", ("trained", "SERVED", "proven bit for bit", "PURGED 1")),
        ("deadline.md", "", ("trained", "SERVED", "PURGED", "Certificate 1 of system")),
        ("text-and-pictures.md", "", ("trained", "Knits", "subtract", "SERVED", "proven bit for bit")),
        ("own-kinds.md", "", ("trained", "SERVED", "ascent", "retrain", "subtract")),
        ("operator.md", "", ("trained", "SERVED", "bitwise")),
        ("auditor.md", "", ("id 44: 2", "id 46: none", "superseded by certificate 2", "all proven bit for bit")),
        ("api.md", _SYSTEM, ('"state":"RECEIVED"',)),
        (
            "exclusions.md",
            _PURGED
            + """python -c 'import pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({"id": [43, 44, 45], "x": [1.0, 2.0, 3.0]}), "copy.parquet")'
""",
            ("is without 1 id(s)", "1 of 3 row(s) are excluded", "0 of 2 row(s) are excluded"),
        ),
        ("certificate.md", _PURGED, ("Certificate 1 of system", "Replay: confirmed")),
        ("webhooks.md", "", ("crm: acknowledged", "request.accepted r-", "request.purged r-")),
        ("upgrades.md", _SYSTEM, ("0 kept, 2 lost", "no checkpoint is lost")),
        ("models.md", _MODELS, ("B: ", "B is retired", "models retire OLD")),
        ("keys.md", _SYSTEM, ("signing key", "guard key", "in use")),
        ("audit.md", _BY_HEART, ("area under the curve", "audit.html")),
    ],
)
def test_every_command_of_a_page_works_in_order(page: str, before: str, words: tuple[str, ...], tmp_path: Path) -> None:
    printed = _run(f"{before}\n{_commands(f'docs/{page}')}", tmp_path)
    for word in words:
        assert word in printed, f"{word!r} is not in:\n{printed}"


@pytest.mark.slow
def test_what_a_privacy_officer_needs_works_in_order(tmp_path: Path) -> None:
    script = _commands("docs/privacy-officer.md", "requests cancel")
    for said, filled in {
        "cancel ID": "cancel $(request 1)",
        "--request ID": "--request $(request 0)",
        "hybridmu decommission": "hybridmu lift 1 -c CONFIG\nhybridmu decommission",
    }.items():
        assert said in script
        script = script.replace(said, filled)
    printed = _run(_PEOPLE + script, tmp_path)
    for word in (
        "CANCELLED",
        "hold 1 on r-",
        "paused",
        "area under the curve",
        "Certificate 1 of system",
        "signing key",
    ):
        assert word in printed, f"{word!r} is not in:\n{printed}"


@pytest.mark.slow
def test_kills_as_the_page_says_but_fewer(tmp_path: Path) -> None:
    script = _commands("docs/faults.md").replace("--kills 1000", "--kills 60").replace("--kills 100 ", "--kills 6 ")
    printed = _run(f"cd {PROJECT}\n{script}", tmp_path)
    assert printed.count("lost 0, doubled 0, diverged 0") == 2


@pytest.mark.slow
def test_a_ledger_on_a_server_comes_back_from_its_backup(tmp_path: Path) -> None:
    """The page's role, database, training, backup and restore, on a server of this test instead of `db.internal`."""
    page = (PROJECT / "docs/operations.md").read_text()
    (statements,) = re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    with running() as server:
        socket = server.socket.parent
        create = f"psql -v ON_ERROR_STOP=1 -h {socket} -U postgres -d postgres <<'SQL'\n{statements}SQL"
        drop = f"psql -h {socket} -U postgres -d postgres -c 'DROP DATABASE hybridmu' -c 'DROP ROLE hybridmu'"
        here = f"postgresql://hybridmu@/hybridmu?host={socket}"
        before = f"mkdir backup\n{create}\n{_SYSTEM.rpartition('hybridmu train')[0]}"
        script = "\n".join([
            before,
            _commands("docs/operations.md", "HYBRIDMU_DATABASE_URL="),
            "hybridmu forget -c CONFIG --id 44",
            _commands("docs/operations.md", "pg_dump"),
            f"hybridmu forget -c CONFIG --id 46 --wait --local\n{drop}\n{create}\necho back:",
            _commands("docs/operations.md", "pg_restore"),
            "hybridmu run -c CONFIG --until-idle --local; hybridmu verify -c CONFIG; hybridmu status -c CONFIG",
        ])
        for said, filled in {
            "postgresql://hybridmu@db.internal/hybridmu?sslmode=verify-full": here,
            "postgresql://hybridmu@db.internal/hybridmu": here,
            "/backup/": "backup/",
        }.items():
            assert said in script
            script = script.replace(said, filled)
        printed = _run(script, tmp_path, binaries=server.binaries)
    after = printed.rpartition("back:")[2]
    for word in ("1 request(s), 1 tombstone(s), version 3", "bitwise", "PURGED 2"):
        assert word in after, printed


@pytest.mark.slow
def test_a_ledger_in_a_file_comes_back_from_its_backup(tmp_path: Path) -> None:
    script = _commands("docs/operations.md", "VACUUM INTO").replace("/backup/", "../backup/")
    again = "mv ../backup/ledger-*.sqlite3 ledger.sqlite3; rm -f ledger.sqlite3-*; cd ..; hybridmu status -c CONFIG"
    printed = _run(
        f"{_SYSTEM}\nmkdir backup; hybridmu forget -c CONFIG --id 44; cd storage\n{script}\n{again}", tmp_path
    )
    assert "requests: RECEIVED 1," in printed, printed
