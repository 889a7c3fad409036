"""Parts that the Ray tests share: blobs to compare, actors to find, and a Ray head in processes of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import ray
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group

import hybridmu
from hybridmu.cluster.local_ray import start_local
from hybridmu.core.kernel.partition import digest
from hybridmu.store.dataset.key_lookup import Lookup
from tests import support
from tests.support import HANG_SECONDS, until

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def config(folder: Path, name: str = "storage", **overrides: Any) -> dict[str, Any]:
    """Return a configuration over one shared table of 300 rows × 8 features in `folder`."""
    if not (folder / "train.parquet").exists():
        support.make_table(folder / "train.parquet", 300, features=8)
    return support.settings_dict(folder, **{"storage_url": str(folder / name), **overrides})


def blobs(system: hybridmu.System) -> dict[int, str | None]:
    """Return shard → content hash of its sub-model: equal hashes are equal bytes."""
    return {sub.shard: sub.blob for sub in system.registry.version().shards}


def ids_in(system: hybridmu.System, shard: int, slice_: int = 1) -> list[int]:
    """Return the ids of a shard's slice, found by asking where each one is."""
    lookup = Lookup(system.site.lake)
    ids = {digest(system.site.lake.key, "id", lookup.typed("id", number)): number for number in range(300)}
    found, _ = lookup.find([("id", number) for number in range(300)])  # purged ones are not found
    return [ids[key.key] for key in found if (key.shard, key.slice) == (shard, slice_)]


def actors(prefix: str) -> list[Any]:
    """Return handles of the named actors that live, by the beginning of their name."""
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["name"]]
    found = []
    for name in names:
        if name.startswith(prefix):
            with suppress(ValueError):  # it died since it was listed
                found.append(ray.get_actor(name, namespace="hybridmu"))
    return found


def leave_nothing() -> None:
    """Kill the named actors that still live, and free what is still reserved."""
    for actor in actors(""):
        ray.kill(actor)
    for name, entry in placement_group_table().items():
        if entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def pid_of(actor: Any) -> int:
    """Return the process id of an idle actor."""
    return int(ask(actor, lambda _: os.getpid()))


def ask(actor: Any, question: Callable[[Any], Any]) -> Any:
    """Return what a function answers about the plain object inside an idle actor."""
    return ray.get(actor.__ray_call__.remote(question), timeout=HANG_SECONDS)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def small_cluster() -> Iterator[None]:
    """Two CPUs, no GPU, in this process; `ensure_ray` finds it initialised."""
    with short_tmp() as folder:
        start_local(
            num_cpus=2,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            namespace="hybridmu",
            log_to_driver=False,
            logging_level="error",
            _temp_dir=folder,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def short_tmp() -> Iterator[str]:
    """A folder with a short path: Ray puts Unix sockets into it, whose paths may have 107 characters."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Head:
    """`ray start --head --block` in token mode on loopback, in the project's folder as serve/config.yaml asks.

    Args:
        temporary: Short path for Ray's session.
        home: HOME of everything that runs there.
        before: A shell line before every command; it says which token, if any. By default one of this head.
    """

    def __init__(self, temporary: str, home: Path, before: str | None = None) -> None:
        self.gcs, self.dashboard, self.http = free_port(), free_port(), free_port()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDMU_", "RAY_"))},
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",  # jobs say `python`
            **({} if before else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": temporary,
            "RAY_metrics_report_interval_ms": "500",
        }
        command = ["ray", "start", "--head", "--block", f"--port={self.gcs}", f"--dashboard-port={self.dashboard}"]
        command += ["--dashboard-host=127.0.0.1", "--num-cpus=2", f"--object-store-memory={200 * 2**20}"]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        self.log, self._before = Path(temporary) / "start.log", before
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._words(*command), cwd=PROJECT, env=self.env, stdout=log, stderr=log)

    def _words(self, name: str, *arguments: str) -> list[str]:
        words = [str(BIN / name), *arguments]
        return words if self._before is None else ["bash", "-ec", f'{self._before}\nexec "$@"', "bash", *words]

    @property
    def token(self) -> str:
        """What this head asks callers for; empty before it has one."""
        kept = Path(self.env["HOME"]) / ".ray" / "auth_token"
        return self.env.get("RAY_AUTH_TOKEN") or (kept.read_text() if kept.exists() else "")

    @property
    def url(self) -> str:
        """Address of the dashboard, for jobs and `serve deploy`."""
        return f"http://127.0.0.1:{self.dashboard}"

    def wait(self) -> None:
        """Return when jobs can be submitted."""

        def answers() -> bool:
            assert self._process.poll() is None, self.log.read_text()
            try:
                self.api("GET", "/api/jobs/")
            except httpx.HTTPError:
                return False
            return True

        until(answers, step=0.2)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer of the dashboard."""
        token = {"Authorization": f"Bearer {self.token}"}
        reply = httpx.request(method, self.url + path, json=body, headers=token, timeout=HANG_SECONDS)
        return reply.raise_for_status().json()

    def scrape(self) -> dict[str, Metric]:
        """Return every metric that Ray's exporters on this head give to Prometheus."""
        found = next(Path(self.env["RAY_TMPDIR"]).rglob("prom_metrics_service_discovery.json"))
        targets = {address for group in json.loads(found.read_text()) for address in group["targets"]}
        families: dict[str, Metric] = {}
        for address in sorted(targets):
            with suppress(httpx.HTTPError):
                text = httpx.get(f"http://{address}/metrics", timeout=10).text
                families |= {family.name: family for family in text_string_to_metric_families(text)}
        return families

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment's bin folder in the project's folder."""
        done = subprocess.run(
            self._words(*command),
            cwd=PROJECT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a command of the environment's bin folder in the project's folder, its output into the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(self._words(*command), cwd=PROJECT, env=self.env | env, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop this head and what it started, nothing else."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
