"""A task's code at the command line: what it prints is beside the result, and what ends a process ends only a verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybridmu.errors import UserExitError
from hybridmu.user_code import placed
from tests.support import make_table, settings_dict

_HEAD = """import os, sys
from torch import nn
from hybridmu.task import CrossEntropyTask
class Ends(BaseException):
    pass
class Body(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.h = nn.Linear(f, c)
    def forward(self, x):
        {forward}
        return self.h(x)
class Net(CrossEntropyTask):
    def model(self, f, c):
        {model}
        return Body(f, c)
"""
_ROW = [{f"x{n}": 0.5 for n in range(4)}]


class Shell:
    """The command line in a folder, in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_table(folder / "train.parquet", 40)
        config = settings_dict(folder, sisa={"shards": 1, "slices": 1, "epochs": 1})
        (folder / "c.yaml").write_text(yaml.safe_dump(config | {"task": {"name": "nets:Net"}}))
        (folder / "rows.json").write_text(json.dumps(_ROW))

    def task(self, model: str = "pass", forward: str = "pass") -> None:
        (self.folder / "nets.py").write_text(_HEAD.format(model=model, forward=forward))

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        code = "from hybridmu.cli.start import main; main()"
        command = [sys.executable, "-c", code, *arguments, "-c", "c.yaml", "--json"]
        return subprocess.run(
            command, cwd=self.folder, env=os.environ | variables, capture_output=True, text=True, check=False
        )


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path)


def test_what_a_task_prints_is_beside_the_one_document(shell):
    """By print, below Python, from a child, and when the process ends."""
    shell.task(
        "import atexit; print('hello'); os.write(1, b'hi\\n'); os.system('echo ho'); atexit.register(print, 'bye')",
        "print('forward')",
    )
    for arguments in (["train", "--local"], ["predict", "rows.json"], ["verify"]):
        done = shell.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["version"] == 1
        if arguments != ["verify"]:
            for word in ("hello", "hi", "ho", "bye", "forward"):
                assert word in done.stderr.split()


@pytest.mark.parametrize("leave", ["sys.exit()", pytest.param("raise Ends('odd')", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_task_that_ends_the_process_fails_the_verb(shell, leave):
    def refused(*arguments: str, **variables: str) -> dict[str, str]:
        done = shell.run(*arguments, **variables)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    kind = "SystemExit" if "sys" in leave else "Ends"
    shell.task(f"if 'LEAVE' in os.environ: {leave}", f"if 'STOP' in os.environ: {leave}")
    found = refused("train", "--local", LEAVE="1")
    assert (found["error"], found["got"].partition(" ")[0].strip(":")) == ("ConfigError", kind)
    assert not (shell.folder / "storage" / "lake").exists()
    assert shell.run("train", "--local").returncode == 0
    found = refused("predict", "rows.json", STOP="1")
    assert (found["error"], found["got"]) == ("DataError", kind)
    found = refused("predict", "rows.json", LEAVE="1")
    assert (found["error"], found["got"].partition(" ")[0].strip(":")) == ("ConfigError", kind)
    assert kind in refused("verify", LEAVE="1")["got"], "its other process tells of it"


@pytest.mark.parametrize("where", ["model", "forward"])
@pytest.mark.sampled
def test_a_task_that_ends_the_process_without_an_exception_is_told_before_training(shell, where):
    shell.task(**{where: "os._exit(4)"})
    done = shell.run("train", "--local")
    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)
    assert (found["what"], found["got"]) == ("task nets:Net ends a process that uses it", "exit code 4")
    assert "os._exit" in found["remedy"]
    assert not (shell.folder / "storage" / "lake").exists()


@pytest.mark.slow
def test_an_oracle_that_ends_without_a_word_is_no_proof(shell):
    shell.task("if 'LEAVE' in os.environ: os._exit(0)")
    assert shell.run("train", "--local").returncode == 0
    done = shell.run("verify", LEAVE="1")
    assert done.returncode == 2, done.stderr
    assert "ended before its work was done" in json.loads(done.stdout)["what"]


_JOBS = ["train", "run", "forget", "verify", "audit"]


@pytest.mark.parametrize(
    ("entry", "pressed"),
    [
        ("hybridmu.cli.start", "hybridmu.cli.operator_commands"),
        *((entry, "hybridmu.cli.main") for entry in ("hybridmu.cli.start", *(f"jobs.{verb}" for verb in _JOBS))),
    ],
)
def test_an_interrupt_while_a_verb_is_imported_is_one_sentence(entry, pressed):
    """As if Ctrl-C were pressed when the import of the command line begins, or that of the verb."""
    code = f"""
import sys
class Press:
    def find_spec(self, name, *_):
        if name == "{pressed}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Press())
from {entry} import main
main()
"""
    project = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--json"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted: nothing was changed\n"
    assert json.loads(done.stdout)["error"] == "Interrupted"


class Own(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "says"), [(SystemExit(3), r"SystemExit: 3 \(test_task_output\.py"), (Own("odd"), "Own: odd")]
)
def test_what_ends_a_process_ends_a_job_alone(raised, says):
    @placed
    def job() -> None:
        raise raised

    with pytest.raises(UserExitError, match=says):
        job()


def test_an_interrupt_of_a_job_is_an_interrupt():
    @placed
    def job() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job()
