"""A small trained system in this process, with the place of every row known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hybridmu
from hybridmu.runtime.coordinator.coordinator import Coordinator
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.types import RequestState
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


@dataclass
class Scene:
    """A trained system.

    Attributes:
        system: The system.
        config: Its configuration.
        table: Its source.
        rows: Shard → ids of its rows.
    """

    system: hybridmu.System
    config: dict[str, Any]
    table: Path
    rows: dict[int, list[int]]

    @property
    def coordinator(self) -> Coordinator:
        """Return the coordinator, which this process becomes."""
        driver = self.system.session.coordination.acquire()
        assert isinstance(driver, Coordinator)
        return driver

    def step(self, times: int = 1) -> None:
        """Make steps that do not block."""
        for _ in range(times):
            self.coordinator.step(0.0)

    def forget(self, *ids: int, **options: Any) -> str:
        """Return the id of a new request."""
        return str(self.system.forget(ids=ids, **options)["request_id"])

    def state(self, request_id: str) -> RequestState:
        """Return how far a request is."""
        return self.system.ledger.request(request_id).state

    def assert_exact_without(self, gone: Iterable[int]) -> None:
        """Check every bit of every shard against the independent trainer."""
        assert_equal_to_reference(self.system, self.config, self.table, list(gone))


@contextmanager
def scene(folder: Path, *, rows: int = 60, shards: int = 3, slices: int = 3, **policy: Any) -> Iterator[Scene]:
    """Yield a trained system whose policy has these settings; old versions are kept, so that nothing is purged."""
    table = folder / "train.parquet"
    ids = write_table(table, rows, string_ids=False, groups=0)
    config = config_for(folder, table, shards=shards, slices=slices, epochs=3, batch=4, optimizer=SGD, groups=0)
    config["policy"] |= {"retention_seconds": 1e9, **policy}
    with hybridmu.connect(config, executor="local") as system:
        system.train(calibrate=policy.get("calibrate", False))
        found, _ = Lookup(system.site.lake).find([("id", row) for row in ids])  # in the order asked
        places: dict[int, list[int]] = {shard: [] for shard in range(shards)}
        for row, key in zip(ids, found, strict=True):
            places[key.shard].append(row)
        yield Scene(system, config, table, places)
