"""A fixed life of a small system, told by what its users see and by the bytes that it leaves.

`python -m tests.contracts.golden FILE` writes what `test_golden.py` compares with. A change of that file is a change of
what the product does: it belongs into the changelog, and where weights or file formats are others, also into what
`upgrade --plan` says.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.config import load
from hybridmu.runtime.workers.context import Site

FEATURES = [f"x{number}" for number in range(4)]
# The same thing is written for what is another thing every time.
_SPELLED = [
    (re.compile(r"\b(r|i|round)-[0-9a-f]{12,16}\b"), r"\1-ID"),
    (re.compile(r"\b[0-9a-f]{16,128}\b"), "HEX"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|GiB|MiB|KiB)\b"), r"N \2"),
]
_OWN = {"caller", "signed_by", "workers", "updaters"}


def told(folder: Path) -> dict[str, Any]:
    """Return what a fixed life tells, JSON-able.

    Args:
        folder: An empty one, in which the system lives.
    """
    with known_secrets():
        return _told(Life(folder), folder)


@contextmanager
def known_secrets() -> Iterator[None]:
    """Give out the same salts and keys every time."""
    numbers = count()
    with patch("secrets.token_bytes", lambda size: hashlib.shake_256(b"%d" % next(numbers)).digest(size)):
        yield


def _told(life: Life, folder: Path) -> dict[str, Any]:
    life.say("train", "--local")
    life.keep("trained")
    life.say("plan", "--ids", life.list("row-3", "row-9"))
    life.say("forget", "--local", "--strategy", "retrain", "--wait", "--ids", life.list("row-3", "row-9"))
    life.keep("forgotten")
    life.say("run", "--local", "--until-idle")
    life.keep("purged")
    life.say("forget", "--local", "--strategy", "retrain", "--wait", "--groups", life.list("p2"))
    life.say("ingest", str(life.write("more.parquet", 12, start=200, seed=2)))
    life.say("run", "--local", "--until-idle")
    life.keep("grown")
    life.say("correct", str(life.corrected("row-1", "row-200")))
    life.say("run", "--local", "--until-idle")
    life.keep("corrected")
    for words in (["status"], ["requests", "list"], ["ingests", "list"], ["certificate", "list"], ["verify"]):
        life.say(*words)
    life.say("upgrade", "--plan")
    life.say("predict", str(folder / "test.parquet"))
    life.certificates()
    return {
        "said": life.said,
        "checkpoints": life.kept,
        "places": life.places(),
        "tables": life.tables(),
        "database": life.database(),
        "manifest": shape(json.loads((folder / "storage/lake/manifest.json").read_text())),
        "certificates": [certificate(path) for path in sorted((folder / "storage/certificates").iterdir())],
        "lineage head": shape(json.loads(json.dumps(Site(load(life.config)).lineage_static()))),
    }


class Life:
    """One system, and what was said and kept of it.

    Args:
        folder: Where it lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "config.yaml"
        self.said: list[Any] = []
        self.kept: dict[str, dict[str, list[str]]] = {}
        train = self.write("train.parquet", 48, start=0, seed=0)
        test = self.write("test.parquet", 24, start=100, seed=1)
        columns = {"id": "id", "group": "person", "label": "label", "features": FEATURES}
        self.config.write_text(
            yaml.safe_dump({
                "data": {"train": str(train), "test": str(test), "classes": ["no", "maybe", "yes"], **columns},
                "task": {"name": "tests.contracts.golden_task:ExactTask"},
                "sisa": {"shards": 3, "slices": 2, "epochs": 3, "batch_size": 4, "seed": 5},
                "optimizer": {"name": "sgd", "lr": 0.25, "momentum": 0.5, "schedule": "constant"},
                "policy": {"calibrate": False, "verify_share": 0.0},
                "storage_url": str(folder / "storage"),
            })
        )

    def write(self, name: str, rows: int, *, start: int, seed: int) -> Path:
        """Write a table of small integers."""
        random = np.random.default_rng(seed)
        columns = {
            "id": [f"row-{number}" for number in range(start, start + rows)],
            "person": [f"p{number}" for number in random.integers(0, 12, rows)],
            "label": [("no", "maybe", "yes")[number] for number in random.integers(0, 3, rows)],
        }
        pq.write_table(
            pa.table(columns | {name: random.integers(-2, 3, rows).astype(np.float32) for name in FEATURES}),
            self.folder / name,
        )
        return self.folder / name

    def corrected(self, *ids: str) -> Path:
        """Write whole rows of some ids, with another label."""
        every = pa.concat_tables([pq.read_table(self.folder / name) for name in ("train.parquet", "more.parquet")])
        rows = [{**row, "label": "maybe"} for row in every.to_pylist() if row["id"] in ids]
        pq.write_table(pa.Table.from_pylist(rows, every.schema), self.folder / "corrected.parquet")
        return self.folder / "corrected.parquet"

    def list(self, *names: str) -> str:
        """Return the path of a file that names ids or groups."""
        path = self.folder / "names.txt"
        path.write_text("".join(f"{name}\n" for name in names))
        return str(path)

    def say(self, *words: str) -> None:
        """Run a command, and note its exit code and its document."""
        done = CliRunner().invoke(app, [*words, "-c", str(self.config), "--json"])
        document = json.loads(done.stdout.splitlines()[-1])
        words = tuple(word.replace(str(self.folder), "FOLDER") for word in words)
        self.said.append({"words": " ".join(words), "exit": done.exit_code, "says": self.plain(document)})

    def certificates(self) -> None:
        """Check every certificate by the command for auditors."""
        for path in sorted((self.folder / "storage/certificates").iterdir()):
            done = CliRunner().invoke(app, ["certificate", "verify", str(path), "--without-key", "--json"])
            self.said.append({"words": path.name, "exit": done.exit_code, "says": self.plain(json.loads(done.stdout))})

    def keep(self, name: str) -> None:
        """Note which checkpoints and sub-models are there: the hash of its bytes is a file's name."""
        shards = sorted((self.folder / "storage/blobs").iterdir())
        self.kept[name] = {shard.name: sorted(file.stem for file in shard.iterdir()) for shard in shards}

    def places(self) -> dict[str, list[int]]:
        """Return id → shard and slice of every training row that is left."""
        found = {}
        for path in sorted((self.folder / "storage/lake").glob("*/train/*.parquet")):
            for row in pq.read_table(path, columns=["id", "_slice"]).to_pylist():
                found[row["id"]] = [int(path.stem.removeprefix("shard-")), row["_slice"]]
        return found

    def tables(self) -> dict[str, str]:
        """Return what every kind of table holds."""
        lake = self.folder / "storage/lake"
        kinds = {"/".join(path.relative_to(lake).parts[1:]).split("-")[0]: path for path in lake.rglob("*.parquet")}
        return {name: str(pq.read_schema(path).remove_metadata()) for name, path in sorted(kinds.items())}

    def database(self) -> dict[str, list[str]]:
        """Return the columns of every table of the ledger."""
        with sqlite3.connect(self.folder / "storage/ledger.sqlite3") as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {
                name: [f"{row[1]} {row[2]}" for row in database.execute(f"PRAGMA table_info({name})")]
                for name in sorted(names)
            }

    def plain(self, value: Any, name: str = "") -> Any:
        """Return a document without what is another thing every time or on every machine."""
        if name in _OWN:
            return "OWN"
        if isinstance(value, dict):
            return {key: self.plain(item, key) for key, item in value.items()}
        if isinstance(value, list):
            if value and all(isinstance(item, dict) and "shard" in item for item in value):
                value = sorted(value, key=lambda item: int(item["shard"]))  # the slowest of them may come first
            return [self.plain(item) for item in value]
        if isinstance(value, float):
            return "FLOAT"
        if isinstance(value, str):
            text = value.replace(str(self.folder), "FOLDER")
            for pattern, spelled in _SPELLED:
                text = pattern.sub(spelled, text)
            return text
        return value


def certificate(path: Path) -> dict[str, Any]:
    """Return what a certificate holds, and those hashes in it that are the same on every machine."""
    document = json.loads(path.read_text())
    links = [[shard[when]["links"] for when in ("before", "after")] for shard in document["shards"]]
    return {
        "shape": shape(document),
        "links": [[[{**link, "key": "HEX"} for link in chain] for chain in pair] for pair in links],
        "keys": document["keys"],
        "proofs": [shard["proofs"] for shard in document["shards"]],
        "purge": {name: value for name, value in document["purge"].items() if name != "looked"},
    }


def shape(value: Any) -> Any:
    """Return a document with the names of types in place of values; of a list, its first entry."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        Path(sys.argv[1]).write_text(json.dumps(told(Path(made)), indent=1, sort_keys=True) + "\n")
