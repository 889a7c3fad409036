"""After a command has done its part it says what to do next, and the commands that it names work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.durations import length
from hybridmu.cli.main import app
from hybridmu.cli.training_commands import _at_work
from hybridmu.runtime.coordinator.snapshot import Snapshot


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration at a path with a space in it, and a table."""
    folder = tmp_path / "my model"
    folder.mkdir()
    x = np.random.default_rng(0).normal(size=80)
    table = {"id": range(80), "x": x, "label": np.where(x > 0, "yes", "no")}
    pq.write_table(pa.table(table), folder / "rows.parquet")
    document = {
        "data": {"train": str(folder / "rows.parquet"), "test_fraction": 0},
        "task": {"name": "lda"},
        "policy": {"calibrate": False},
        "storage_url": str(folder / "storage"),
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(document))
    return folder / "c.yaml"


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def commands(text: str) -> list[list[str]]:
    """Return the commands that are named after `next:`."""
    _, _, after = text.partition("next: ")
    return [shlex.split(found)[1:] for found in re.findall("`(hybridmu [^`]*)`", after)]


def test_a_life_by_what_each_command_says_comes_next(config):
    plan, forget, verify, evaluate = commands(said("train", "--local", "-c", str(config)))
    assert (verify[0], evaluate[0]) == ("verify", "evaluate")
    text = said(*(word.replace("ID", "7") for word in plan))
    assert commands(text) == [["forget", "-c", str(config)]]
    text = said(*(word.replace("ID", "7") for word in forget), "--local")
    assert "SERVED: 1 key(s)" in text
    [run] = commands(text)
    assert "exact, purges" not in text
    said(*run, "--local")
    [request] = re.findall(r"r-[0-9a-f]+", text)[:1]
    [show] = commands(said("requests", "show", request, "-c", str(config)))
    assert request in said(*show)


def test_what_is_only_committed_is_fulfilled_by_run(config):
    said("train", "--local", "-c", str(config))
    text = said("forget", "--id", "3", "-c", str(config))
    assert "RECEIVED" in text
    assert commands(text) == [["run", "-c", str(config)]]


def test_machines_are_told_nothing_of_it(config):
    assert "next:" not in said("train", "--local", "--json", "-c", str(config))


@pytest.mark.parametrize(
    ("snapshot", "text"),
    [
        (Snapshot(3, 0, 0, 0), "version 3, 0 request(s) open: nothing to do"),
        (Snapshot(3, 4, 1, 2), "version 3, 2 request(s) open: 1 of 4 shard jobs"),
        (Snapshot(3, 0, 0, 0, purging=True), "version 3, 0 request(s) open: purging"),
        (Snapshot(3, 0, 0, 1, paused=True), "version 3, 1 request(s) open: paused"),
    ],
)
def test_a_coordinator_says_what_it_does(snapshot, text):
    assert _at_work(snapshot) == text


def test_a_length_is_told_in_one_unit():
    assert [length(seconds) for seconds in (0.0, 119.0, 121.0, 7_300.0, 200_000.0)] == [
        "0 s", "119 s", "2 min", "2 h", "2 days",
    ]  # fmt: skip
