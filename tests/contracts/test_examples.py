"""Every example configuration trains, forgets and is proven; every notebook says what it shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import load
from hybridmu.datasets.catalog import describe
from tests.support import HANG_SECONDS

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.yaml"))
NOTEBOOKS = sorted(Path(__file__).parents[2].glob("examples/*.ipynb"))
# Runs cells as a notebook does, in order and in one process, and prints what each of them printed.
_CELLS = """
import contextlib, io, json, sys
printed, names = [], {"__name__": "__main__"}
for source in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(source, f"cell {len(printed) + 1}", "exec"), names)
    printed.append(said.getvalue())
print(json.dumps(printed))
"""
# What is fetched first: tests/datasets/test_widedeep.py trains on tables of the same form.
FETCHED = [path for path in EXAMPLES if describe(load(path).data.name).download]


def test_there_are_examples():
    assert {"digits.yaml", "mnist5k.yaml"} <= {path.name for path in EXAMPLES}


def test_an_example_of_a_dataset_that_is_fetched_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDMU_DATA", str(tmp_path))
    assert {path.stem for path in FETCHED} == {
        "california",
        "cifar10",
        "cifar10-encoder",
        "movielens",
        "reviews",
        "reviews-adapters",
    }
    for path in FETCHED:
        name = load(path).data.name
        assert f"hybridmu data get {name}" in path.read_text()
        with pytest.raises(hybridmu.HybridMUError, match=f"hybridmu data get {name}"):
            hybridmu.connect(path, executor="local")


@pytest.mark.parametrize("path", sorted({*EXAMPLES} - {*FETCHED}), ids=lambda path: path.stem)
@pytest.mark.sampled
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", str(tmp_path / "storage"))
    with hybridmu.connect(path, executor="local") as system:
        trained = system.train()
        assert trained["voters"] == trained["shards"] == system.settings.sisa.shards
        table = pq.read_table(system.settings.data.train)
        group = table["user"][5].as_py()
        report = system.forget(groups=[group], strategy="retrain", wait=True)
        assert report["state"] == "SERVED"
        proof = system.verify()
        assert proof["bitwise_equal"] is True
        assert proof["accuracy"] > 0.8
        answer = system.predict(pq.read_table(system.settings.data.test).slice(0, 20).to_pylist())
        assert len(answer["predictions"]) == 20


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["forget_in_a_notebook.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path, tmp_path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    done = subprocess.run(
        [sys.executable, "-c", _CELLS],
        input=json.dumps(["".join(cell["source"]) for cell in cells]),
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    shown = ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells]
    assert json.loads(done.stdout) == shown
    assert sum(map(bool, shown)) >= 5
    assert list(tmp_path.iterdir()) == []
