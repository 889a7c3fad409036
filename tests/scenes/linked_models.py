"""Models over the same people: one table, other shards, a ledger and storage each, the same keys."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import hybridmu
from hybridmu.types import RequestState
from tests.scenes.purged_system import POLICY
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table

SHAPES = {"first": (3, 2), "second": (2, 3), "third": (1, 2)}


class Family:
    """Trained models over one table; `gone` is what was forgotten of it."""

    def __init__(self, folder: Path, groups: int = 0, databases: dict[str, str] | None = None) -> None:
        self.folder, self.groups, self.databases = folder, groups, databases or {}
        self.table = folder / "train.parquet"
        self.configs: dict[str, dict[str, Any]] = {}
        self.systems: dict[str, hybridmu.System] = {}

    def __getitem__(self, name: str) -> hybridmu.System:
        return self.systems[name]

    def config(self, name: str, shape: tuple[int, int], **overrides: Any) -> dict[str, Any]:
        """Return the configuration of a model."""
        shards, slices = shape
        table = overrides.pop("table", self.table)
        raw = config_for(
            self.folder,
            table,
            shards=shards,
            slices=slices,
            epochs=2,
            batch=4,
            optimizer=SGD,
            groups=self.groups,
        )
        raw |= {"policy": POLICY, "storage_url": str(self.folder / name), "keys": {"folder": str(self.folder / "keys")}}
        raw |= {"database_url": self.databases[name]} if name in self.databases else {}
        for section, values in overrides.items():
            raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
        self.configs[name] = raw
        return raw

    def open(self, name: str) -> hybridmu.System:
        """Return a model, opened anew."""
        if name in self.systems:
            self.systems[name].close()
        self.systems[name] = hybridmu.connect(self.configs[name], executor="local")
        return self.systems[name]

    def add(self, name: str, shape: tuple[int, int] | None = None, **overrides: Any) -> hybridmu.System:
        """Return a new, trained model."""
        self.config(name, shape or SHAPES[name], **overrides)
        self.open(name).train()
        return self.systems[name]

    def run(self) -> None:
        """Let every coordinator do what is to be done: what one passes on comes to another in its turn."""
        for _ in range(2):
            for system in self.systems.values():
                system.run(until_idle=True)
                system.close()

    def live(self, name: str) -> set[object]:
        """Return the ids of rows that a model may train on: in its files, without a tombstone."""
        system = self.systems[name]
        lake, stones = system.site.lake, system.ledger.tombstones()
        lake.refresh()
        found: set[object] = set()
        for shard in range(lake.shards):
            gone = {stone.key for stone in stones.get(shard, ())}
            for file in lake.files("train", shard):
                rows = pq.read_table(lake.storage.path(file)).to_pylist()
                found |= {row["id"] for row in rows if not gone & {row["_id"], row["_group"]}}
        return found

    def check(self, name: str, ids: Iterable[object] = (), groups: Iterable[str] = ()) -> None:
        """Check every bit of a model against the independent trainer."""
        assert_equal_to_reference(self.systems[name], self.configs[name], self.table, list(ids), list(groups))

    def states(self, name: str) -> list[RequestState]:
        return [request.state for request in self.systems[name].ledger.requests()]

    def close(self) -> None:
        for system in self.systems.values():
            system.close()


@contextmanager
def family(
    folder: Path, *names: str, rows: int = 40, groups: int = 0, databases: dict[str, str] | None = None
) -> Iterator[tuple[Family, list[Any]]]:
    """Yield trained models over one table, and the ids of its rows; they are not linked."""
    with ExitStack() as stack:
        made = Family(folder, groups, databases)
        stack.callback(made.close)
        made.table, ids = _trained(() if databases else names, rows, groups)
        for name in names:
            if databases:
                made.add(name)
                continue
            made.config(name, SHAPES[name])
            shutil.copytree(made.table.with_name(name), folder / name)
            made.open(name)
        yield made, list(ids)


@cache
def _trained(names: tuple[str, ...], rows: int, groups: int) -> tuple[Path, list[Any]]:
    """Return a table beside the storages of models that were trained on it, and its ids; made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="linked-"))
    atexit.register(shutil.rmtree, folder)
    made = Family(folder, groups)
    ids = write_table(made.table, rows, string_ids=False, groups=groups)
    for name in names:
        made.add(name)
    made.close()
    return made.table, ids
