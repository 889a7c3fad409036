"""Completion of words in a shell: what the shell is given works, and says verbs and options without loading models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_imports import HEAVY, TABLES

BINARIES = Path(sys.executable).parent


def completed(words: str) -> tuple[set[str], set[str]]:
    """Return what completes the last word, and the modules that it took to say so."""
    code = """
import json, sys
from hybridmu.cli.start import main
try:
    main([])
except SystemExit:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    env = os.environ | {"_HYBRIDMU_COMPLETE": "complete_bash", "COMP_WORDS": words}
    env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    code = code.replace("import json, sys\n", "import json, sys\nsys.argv[0] = 'hybridmu'\n", 1)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()), set(json.loads(done.stderr.splitlines()[-1]))


def test_a_verb_is_completed_without_loading_any():
    found, modules = completed("hybridmu re")
    assert found == {"readmit", "requests", "reshard", "resume"}
    assert modules & (HEAVY | TABLES | {"numpy"}) == set()


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("hybridmu certificate ver", {"verify"}),
        ("hybridmu forget --st", {"--strategy"}),
        ("hybridmu requests show --js", {"--json"}),
        ("hybridmu nothing --js", set()),
    ],
)
def test_what_a_verb_takes_is_completed_without_models(words, some):
    found, modules = completed(words)
    assert found == some
    assert modules & HEAVY == set()


def test_what_is_installed_completes_in_a_shell(tmp_path):
    env = {"HOME": str(tmp_path), "PATH": f"{BINARIES}:/usr/bin:/bin"}
    script = """
hybridmu --install-completion bash > installed.txt
. ~/.bash_completions/hybridmu.sh
COMP_WORDS=(hybridmu doc) COMP_CWORD=1
_hybridmu_completion hybridmu
echo "${COMPREPLY[@]}"
"""
    command = ["bash", "--noprofile", "--norc", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["doctor"], done.stderr
    assert "bash_completions/hybridmu.sh" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(shell):
    # The shell is the one that is named, and not the one that runs the tests, if any does.
    env = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [BINARIES / "hybridmu", "--show-completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert "_HYBRIDMU_COMPLETE" in done.stdout
