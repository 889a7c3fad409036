"""One verdict, whoever is asked: the small package, the system's own command, and a checker that shares no code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.core.strategies import get, names
from hybridmu.verifier.shard_evidence import EXACT
from tests import reference_certificate as reference
from tests import sample_certificates as made
from tests.verifier import certificates

PACKAGE = Path(__file__).parents[2] / "packages" / "hybridmu-verify"
# What is outside of the standard library may be what `cryptography` needs, and nothing else.
_ALONE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from hybridmu_verify.__main__ import main
code = main()
ours = {"hybridmu", "numpy", "pydantic", "rich", "typer", "yaml", "torch", "ray", "jinja2"}
assert not {name.partition(".")[0] for name in sys.modules} & ours
sys.exit(code)
"""


def alone(*words: object) -> subprocess.CompletedProcess[str]:
    """Return what the small package's command says, in a process that imports nothing else of ours."""
    command = [sys.executable, "-c", _ALONE, str(PACKAGE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def inside(*words: object) -> dict[str, Any]:
    """Return what `hybridmu certificate verify` says."""
    done = CliRunner().invoke(app, ["certificate", "verify", *map(str, words), "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == found["exit_code"]
    return found


def independent(file: Path, key: Path) -> bool:
    return reference.main([str(file), "--key", str(key)]) == 0


def test_all_agree_on_what_is_good_and_what_is_forged(tmp_path):
    documents = {certificates.GOOD: made.signed(), **certificates.forgeries()}
    assert len(documents) > 200
    files, key = certificates.write(tmp_path, documents), tmp_path / "operator.pub.pem"
    done = alone(*files.values(), "--public-key", key, "--json")
    assert done.returncode == 1, done.stderr
    said = {each["file"]: each for each in json.loads(done.stdout)["certificates"]}
    for name, file in files.items():
        here = inside(file, "--public-key", key)
        here.pop("replay")
        assert said[str(file)] == {"file": str(file), **here}, name
        assert here["ok"] == independent(file, key) == (name == certificates.GOOD), name


def test_all_agree_on_chains(tmp_path):
    whole = made.chain_of(3)
    changed = {**whole[1], "purge": {}}
    chains = {
        "whole": whole,
        "one missing": [whole[0], whole[2]],
        "the first missing": whole[1:],
        "one twice": [*whole, whole[2]],
        "one changed": [whole[0], changed, whole[2]],
        "one signed again": [whole[0], made.sign(changed, made.KEY), whole[2]],
        "of another key": [*whole[:2], made.sign(whole[2], made.OTHER)],
        "of another system": [whole[0], made.chain_of(2, system="07e4")[1]],
    }
    for name, chain in chains.items():
        folder = tmp_path / name
        files = [*certificates.write(folder, dict(enumerate(chain))).values()]
        words = (files[0], "--public-key", folder / "operator.pub.pem", "--chain", folder)
        here, there = inside(*words), alone(*words, "--json")
        here.pop("replay")
        assert json.loads(there.stdout)["certificates"] == [{"file": str(files[0]), **here}], name
        assert there.returncode == here["exit_code"] == int(name != "whole"), name


def test_the_verifier_knows_which_strategies_are_exact():
    assert {name for name in names() if get(name).exact} == EXACT


def test_the_package_is_the_same_files():
    linked = PACKAGE / "hybridmu_verify"
    assert linked.resolve() == Path(reference.__file__).parents[1] / "hybridmu" / "verifier"
