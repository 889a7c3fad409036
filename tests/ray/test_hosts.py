"""Hosts that die, are cut off, and come back: work goes on, nothing is lost, and the bits are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml

import hybridmu
from hybridmu.types import RequestState
from tests import postgres
from tests.ray import support
from tests.ray.hosts import PORT, Host, Net, refusal

WHY_NOT = refusal()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
SLICES = 3
SMALL = (f"--object-store-memory={100 * 2**20}", "--disable-usage-stats")


class Company:
    """A head without work, three hosts of one CPU, and a system that they serve; training can be held up."""

    def __init__(self, folder: Path, temporary: Path, database_url: str) -> None:
        self.folder, self.pause = folder, folder / "pause"
        self.net = Net(temporary, {"PYTHONPATH": str(support.PROJECT)})
        self.raw = self._config("hosts", database_url=database_url)
        with hybridmu.connect(self.raw, executor="local") as system:
            system.train()
        self.asked: list[int] = []
        self.names: list[str] = []

    def _config(self, storage: str, **more: Any) -> dict[str, Any]:
        task = {"name": "tests.ray.tasks:Pausable", "hidden": [8], "pause": str(self.pause), "seconds": 0.3}
        sisa = {"shards": 4, "slices": SLICES, "epochs": 6}
        return support.config(self.folder, storage, sisa=sisa, task=task, **more)

    def begin(self) -> None:
        """Switch everything on."""
        self.head, *self.workers = (self.net.host() for _ in range(4))
        self.start_head()
        for host in self.workers:
            self.join(host)
        self.config = self.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({**self.raw, "cluster": {"address": self.net.head, "live_actors": 4}}))

    def start_head(self) -> None:
        gcs = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.net.folder / "gcs")}
        self.head.start("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", *SMALL, **gcs)

    def join(self, host: Host) -> None:
        host.start(f"--address={self.net.head}", "--num-cpus=1", *SMALL)

    def coordinate(self, host: Host) -> Popen[bytes]:
        """Be the coordinator there; as a supervisor would, try until the lease is free."""
        run = f"while true; do {support.BIN}/hybridmu run -c {self.config}; sleep 0.5; done"
        return host.spawn("/bin/bash", "-c", run)

    def forget(self, shards: tuple[int, ...] = (0, 1, 2, 3)) -> str:
        """Ask for a row of slice 1 of some shards, and return the request."""
        with hybridmu.connect(self.raw, executor="local") as system:
            ids = [next(n for n in support.ids_in(system, shard) if n not in self.asked) for shard in shards]
            self.asked += ids
            self.names.append(str(system.forget(ids=ids, strategy="retrain")["request_id"]))
        return self.names[-1]

    def request(self, name: str) -> Any:
        with hybridmu.connect(self.raw, executor="local") as system:
            return system.ledger.request(name)

    def holder(self) -> str | None:
        with hybridmu.connect(self.raw, executor="local") as system:
            return system.lease.holder()

    def status(self) -> dict[str, Any]:
        with hybridmu.connect(self.raw, executor="local") as system:
            return system.status()

    def slices(self) -> set[Path]:
        """Return the finished slices that are kept; a purge takes some away meanwhile."""
        return {each for each in (self.folder / "hosts" / "lineage").rglob("*") if each.is_file()}

    def halfway(self) -> str:
        """Ask for a row of every shard, hold training up once a slice of that is finished, and return the request."""
        self.pause.touch()
        name, before = self.forget(), self.slices()
        support.until(lambda: self.slices() - before, 90, step=0.1)
        return name

    def until_served(self, name: str, seconds: float = 120.0) -> None:
        support.until(lambda: self.request(name).state in {RequestState.SERVED, RequestState.PURGED}, seconds, step=0.2)

    def check(self) -> None:
        """Compare with a system that nothing happened to."""
        with (
            hybridmu.connect(self.raw, executor="local") as ours,
            hybridmu.connect(self._config("alone"), executor="local") as alone,
        ):
            alone.train()
            alone.forget(ids=self.asked, strategy="retrain", wait=True)
            assert support.blobs(ours) == support.blobs(alone)
            versions = [ours.ledger.request(name).version_after for name in self.names]
            assert versions == sorted(versions), "versions went back"
            assert ours.registry.served() == 1 + len(self.names), "something was published twice"


@pytest.fixture
def company(tmp_path: Path, postgresql: postgres.Server) -> Iterator[Company]:
    with support.short_tmp() as folder, postgresql.database() as url:
        Path(folder).chmod(0o755)
        made = Company(tmp_path, Path(folder), url)
        with made.net:
            made.begin()
            yield made
            for host in made.net.hosts:  # shown when the test failed
                print(f"--- {host.name} {host.address}\n{host.log.read_text()[-3000:]}")
            print(made.status())


def test_hosts_that_die_and_are_cut_off_cost_time_and_no_bit(company: Company) -> None:
    one, two, three = company.workers

    # The host of the coordinator loses its power in the middle of a retrain.
    company.coordinate(one)
    first = company.halfway()
    held = company.holder()
    one.off()
    company.pause.unlink()
    company.coordinate(two)
    company.until_served(first)
    assert company.holder() not in {None, held}

    # A host that only trains is cut off, and comes back as another one: its raylet has left by itself.
    second = company.halfway()
    three.cut()
    company.pause.unlink()
    company.until_served(second)
    three.heal()
    support.until(lambda: not three.on, 60, step=0.2)
    company.join(three)

    # The host of the coordinator is cut off and still reaches the ledger: nothing it writes may count twice.
    third = company.halfway()
    held = company.holder()
    two.cut()
    company.pause.unlink()
    company.coordinate(three)
    company.until_served(third, 180)
    two.heal()
    fourth = company.forget((1,))
    company.until_served(fourth)
    assert company.holder() != held
    time.sleep(1)
    company.check()


def test_a_head_that_dies_and_comes_back_costs_time_and_no_bit(company: Company) -> None:
    company.coordinate(company.workers[0])
    first = company.forget((0,))
    company.until_served(first)
    second = company.halfway()
    company.head.off()
    time.sleep(1)
    company.start_head()
    company.pause.unlink()
    company.until_served(second, 180)
    third = company.forget((2, 3))
    company.until_served(third)
    company.check()
