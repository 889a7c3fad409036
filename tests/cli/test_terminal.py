"""Names of callers and tables are shown as they are: no markup, no control sequences, and results in words."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.report.terminal import Description, Terminal
from hybridmu.store.ledger.tables import requests
from hybridmu.types.text import is_plain, visible
from tests.system.test_exactness import SGD, config_for

NASTY = [
    "[/b]",
    "[red]x",
    ":smile:",
    "\x1b[31mred",
    "a\x07b",
    "[link=http://x]y[/link]",
    "[bold",
    "\x9b31m",
    "\u202eabc",
]


@settings(deadline=None)
@given(st.text())
def test_nothing_that_moves_a_cursor_is_printed(text):
    file = io.StringIO()
    console = Terminal(file=file, width=10_000, force_terminal=True)
    console.print(text, soft_wrap=True)
    table = Table(text)
    table.add_row(text)
    console.print(table)
    printed = file.getvalue()
    printed.encode()
    assert is_plain(visible(text))
    assert "\x1b[3" not in printed or "\x1b[3" not in text
    assert not any(ord(letter) < 32 and letter not in "\n\t\x1b" for letter in printed)


@pytest.mark.parametrize("text", NASTY)
def test_markup_is_text(text):
    file = io.StringIO()
    console = Terminal(file=file, width=200)
    console.print(f"by {text}: reason")
    table = Table("caller")
    table.add_row(text)
    console.print(table)
    with Progress(Description(), console=Terminal(file=file, width=200, force_terminal=True)) as progress:
        progress.add_task(f"preparing {text}")
    assert file.getvalue().count(visible(text)) >= 3
    assert text.isprintable() or text not in file.getvalue()


@pytest.fixture(scope="module")
def nasty(tmp_path_factory) -> Path:
    """A trained system whose classes, ids and groups look like markup."""
    folder = tmp_path_factory.mktemp("nasty")
    columns = ["[/i]", "[red]", "\x1b[1m"]
    values = [(7 * n) % 11 / 5 - 1 for n in range(40)]
    table = {"id": [f"[/b]{n}" for n in range(40)], "label": [NASTY[n % 2] for n in range(40)]}
    pq.write_table(pa.table(table | dict.fromkeys(columns, values)), folder / "train.parquet")
    config = config_for(
        folder, folder / "train.parquet", shards=2, slices=1, epochs=1, batch=8, optimizer=SGD, groups=0
    )
    config["data"] |= {"features": columns, "classes": NASTY[:2]}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    said = run(folder, "train", "--local")
    assert "classes: [/b], [red]x" in said
    assert "rows: 40 train" in said
    assert "classes inferred: no" in said
    return folder


def run(folder: Path, *arguments: str, code: int = 0, **options) -> str:
    done = CliRunner().invoke(app, [*arguments, "-c", str(folder / "c.yaml")], **options)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert "\x1b" not in done.output
    return done.output


def test_every_list_shows_names_as_they_are(nasty):
    said = run(nasty, "forget", "--id", "[/b]3", "--caller", "[/b] desk", "--local")
    assert "None" not in said
    assert "version" not in said
    assert "RECEIVED: 1 key(s)\n" in said
    with hybridmu.connect(nasty / "c.yaml", executor="local") as system:
        [request] = system.requests()
        with system.database.engine.begin() as connection:  # as an older release accepted it
            connection.execute(requests.update().values(caller="[/b]\x1b[31m", reason="[red]because[/i]"))
    assert "[/b]\\x1b[31m" in run(nasty, "requests", "list")
    assert "because   [red]because[/i]" in run(nasty, "requests", "show", request["request_id"])
    run(nasty, "pause", "--reason", "[/pause]")
    run(nasty, "hold", "--reason", "[/hold]")
    said = run(nasty, "status")
    assert "[/pause]" in said
    assert "[/hold]" in said
    assert "replicas: none" in said
    assert "[/hold]" in run(nasty, "holds")
    assert "[/none]" in run(nasty, "forget", "--id", "[/none]", code=2)
    row = {"[/i]": 1.0, "[red]": 1.0, "\x1b[1m": 1.0}
    assert run(nasty, "predict", "-", input=json.dumps([row])).strip() in NASTY[:2]
    assert "[/t]" in run(nasty, "tokens", "create", "[/t]", "--scope", "audit")
    assert "[/t]" in run(nasty, "tokens", "list")


def test_replicas_are_shown_in_words(nasty):
    with hybridmu.connect(nasty / "c.yaml", executor="local") as system:
        system.replicas.register("j558skxa", 11, 60.0)
    try:
        assert "replicas: j558skxa with version 11; coordinator: none" in run(nasty, "status")
    finally:
        with hybridmu.connect(nasty / "c.yaml", executor="local") as system:
            system.replicas.unregister("j558skxa")


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "--local", "--share", "nan"],
        ["audit", "--local", "--models", "-1"],
        ["audit", "--local", "--output", "."],
        ["ingest", "x.parquet", "--slices", "0"],
        ["ingest", "x.parquet", "--epochs", "-1"],
        ["lift", "--", "-1"],
        ["lift", str(2**70)],
        ["verify", "--shard", "-1"],
        ["size", "--requests-per-day", "nan", "--deadline", "1h"],
        ["size", "--requests-per-day", "1", "--deadline", "-5s"],
        ["size", "--requests-per-day", "1", "--deadline", "1h", "--rows", "0"],
        ["size", "--requests-per-day", "1", "--deadline", "1h", "--seed", "-1"],
        ["forget", "--local", "--id", "1", "--key", ""],
        ["forget", "--local", "--id", "1", "--caller", "a\nb"],
        ["pause", "--reason", " "],
        ["tokens", "create", "a\x1b[1m"],
        ["tokens", "create", "x", "--hours", "nan"],
        ["tokens", "create", "x", "--hours", "1e300"],
        ["tokens", "rotate", "nothing", "--grace-hours", "nan"],
        ["requests", "show", "[/b]"],
        ["predict", "/no/such/file"],
        ["upgrade", "--plan", "--with", "="],
    ],
    ids=" ".join,
)
def test_options_out_of_range_are_errors_in_a_line(nasty, arguments):
    said = run(nasty, *arguments, code=2)
    assert "rror" in said


@pytest.mark.parametrize("verb", ["train", "verify"])
@pytest.mark.sampled
def test_an_interrupt_ends_with_one_sentence(nasty, tmp_path, verb):
    raw = yaml.safe_load((nasty / "c.yaml").read_text())
    raw |= {"storage_url": str(tmp_path / "long"), "sisa": {**raw["sisa"], "epochs": 1}}
    if verb == "verify":
        with hybridmu.connect(raw, executor="local") as system:
            system.train()
    else:
        raw["sisa"]["epochs"] = 100_000
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw))
    # A session of its own: a terminal sends the signal to every process of the command.
    code = "import sys; from hybridmu.cli.main import main; print('ready', flush=True); sys.stdin.readline(); main()"
    options = ["-c", str(tmp_path / "c.yaml"), "--json", *(["--local"] if verb == "train" else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", code, verb, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    if verb == "train":
        while not (tmp_path / "long" / "lake" / "manifest.json").exists() and process.poll() is None:
            time.sleep(0.05)
    else:
        while len(children(process.pid)) == 0 and process.poll() is None:
            time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out)["error"] == "Interrupted"
    assert ("the same command goes on" in err) == (verb == "train")


def children(process: int) -> list[str]:
    """Return the processes that a process started."""
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()
