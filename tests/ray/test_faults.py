"""Whatever is killed in the middle of a request, the request ends in the weights of an undisturbed run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray

import hybridmu
from hybridmu.errors import StateError
from hybridmu.types import RequestState
from tests.ray import support
from tests.ray.tasks import finished, waiting
from tests.support import HANG_SECONDS

pytestmark = pytest.mark.usefixtures("cluster")
SLICES = 3


class Scene:
    """A system trained in this process, and a gate before what is trained from then on."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        self.folder = folder
        self.config = self._config("storage")
        with hybridmu.connect(self.config, executor="local") as system:
            system.train()
            self.lineage = Path(system.site.storage.path("lineage"))
            self.trained = self.finished()

    def _config(self, storage: str) -> dict[str, Any]:
        lineage = self.folder / "storage" / "lineage"
        task = {"name": "tests.ray.tasks:Gated", "hidden": [8], "gate": str(self.gate), "lineage": str(lineage)}
        sisa = {"shards": 2, "slices": SLICES, "epochs": 6}
        return support.config(self.folder, storage, sisa=sisa, task=task)

    def undisturbed(self, ids: list[int]) -> dict[int, str | None]:
        with hybridmu.connect(self._config("undisturbed"), executor="local") as system:
            system.train()
            system.forget(ids=ids, strategy="retrain", wait=True)
            return support.blobs(system)

    def finished(self) -> int:
        """Return how many slices were ever trained to their end."""
        return finished(self.lineage)

    def shut(self, after: int) -> None:
        """Let training stand still once so many more slices are finished."""
        self.gate.write_text(str(self.finished() + after))

    def follow(self, system: hybridmu.System, request_id: str) -> tuple[Thread, list[BaseException]]:
        """Return a thread that waits for a request, and what it raises."""
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                system.wait(request_id)
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=wait, daemon=True)
        thread.start()
        return thread, errors


@pytest.mark.slow
def test_a_killed_shard_goes_on_from_its_last_finished_slice(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with hybridmu.connect(scene.config) as system:
        first, second = support.ids_in(system, 0)[:2]
        system.forget(ids=[first], strategy="retrain", wait=True)  # brings up shard 0's actor
        (actor,) = support.actors("shard-0-")
        pid = support.pid_of(actor)
        before = scene.finished()
        scene.shut(after=1)
        request_id = system.forget(ids=[second], strategy="retrain")["request_id"]
        thread, errors = scene.follow(system, request_id)
        support.until(lambda: pid in waiting(scene.gate))
        assert scene.finished() == before + 1
        os.kill(pid, signal.SIGKILL)
        scene.gate.unlink()
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()
        assert not errors
        report = system.report(request_id)
        assert report["state"] == RequestState.SERVED
        (shard,) = report["shards"]
        assert shard["first_slice"] == 2, "slice 1 was not trained again"
        assert 0 < shard["sample_visits"] < shard["planned_visits"]
        assert scene.finished() == before + SLICES
        assert support.blobs(system) == scene.undisturbed([first, second])


@pytest.mark.slow
def test_after_a_killed_coordinator_a_new_one_ends_in_the_same_weights(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.shut(after=1)
    with hybridmu.connect(scene.config) as system:
        ids = [support.ids_in(system, shard)[0] for shard in (0, 1)]
        request_id = system.forget(ids=ids, strategy="retrain")["request_id"]
        thread, errors = scene.follow(system, request_id)
        support.until(lambda: len(waiting(scene.gate)) == 2)  # both shards, in processes of their own
        (actor,) = support.actors("coordinator-")
        ray.kill(actor)
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [StateError]
        assert "nothing is lost" in str(errors[0])
        assert system.ledger.request(request_id).state is RequestState.PLANNED
    support.until(lambda: not support.actors("shard-"))
    kept = scene.finished() - scene.trained
    scene.gate.unlink()
    # Its lease would run out within seconds; the test does not wait for that.
    with system.ledger._write.begin() as connection:
        connection.exec_driver_sql("update leases set expires_at = 0")
    # The dead one held both CPUs of the cluster; they must not be lost with it.
    with hybridmu.connect(scene.config) as system:
        thread, errors = scene.follow(system, request_id)
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()
        assert not errors
        report = system.report(request_id)
        assert report["state"] == RequestState.SERVED
        assert sum(shard["first_slice"] - 1 for shard in report["shards"]) == kept > 0, "finished slices are kept"
        assert support.blobs(system) == scene.undisturbed(ids)
