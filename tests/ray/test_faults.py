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

pytestmark = pytest.mark.usefixtures("cluster")
SLICES = 3


class Scene:
    """A system trained in this process, a request for the first slice of both shards, and a brake on its training."""

    def __init__(self, folder: Path) -> None:
        self.pause = folder / "pause"
        self.folder = folder
        self.config = self._config("storage")
        with hybridmu.connect(self.config, executor="local") as system:
            system.train()
            self.ids = [support.ids_in(system, shard)[0] for shard in (0, 1)]

    def _config(self, storage: str) -> dict[str, Any]:
        task = {"name": "tests.ray.tasks:Pausable", "hidden": [8], "pause": str(self.pause)}
        sisa = {"shards": 2, "slices": SLICES, "epochs": 6}
        return support.config(self.folder, storage, sisa=sisa, task=task)

    def undisturbed(self) -> dict[int, str | None]:
        with hybridmu.connect(self._config("undisturbed"), executor="local") as system:
            system.train()
            system.forget(ids=self.ids, strategy="retrain", wait=True)
            return support.blobs(system)

    def run_until_slice_one_is_done(self, system: hybridmu.System) -> tuple[Thread, str, list[BaseException]]:
        """Start the request slowly and return (its thread, its id, its errors) when both shards train slice 2."""
        lineage = Path(system.site.storage.path("lineage"))

        def finished() -> int:
            return sum(file.is_file() and file.suffix != ".tmp" for file in lineage.rglob("*"))

        before = finished()
        self.pause.touch()
        request = system.forget(ids=self.ids, strategy="retrain")
        errors: list[BaseException] = []

        def follow() -> None:
            try:
                system.wait(request["request_id"])
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=follow)
        thread.start()
        support.until(lambda: finished() == before + 2)
        return thread, request["request_id"], errors


def test_a_killed_shard_goes_on_from_its_last_finished_slice(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with hybridmu.connect(scene.config) as system:
        system.forget(ids=[support.ids_in(system, 0)[1]], strategy="retrain", wait=True)  # brings up shard 0's actor
        scene.ids[0] = support.ids_in(system, 0)[2]
        (actor,) = support.actors("shard-0-")
        pid = support.pid_of(actor)
        thread, request_id, errors = scene.run_until_slice_one_is_done(system)
        os.kill(pid, signal.SIGKILL)
        scene.pause.unlink()
        thread.join(60)
        assert not thread.is_alive()
        assert not errors
        report = system.report(request_id)
        assert report["state"] == RequestState.SERVED
        assert [shard["first_slice"] for shard in report["shards"]] == [2, 1], "slice 1 of shard 0 was kept"
        killed = report["shards"][0]
        assert 0 < killed["sample_visits"] < killed["planned_visits"]
        assert system.verify()["bitwise_equal"] is True


def test_after_a_killed_coordinator_a_new_one_ends_in_the_same_weights(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    before = {*support.actors("coordinator-")}
    with hybridmu.connect(scene.config) as system:
        thread, request_id, errors = scene.run_until_slice_one_is_done(system)
        (actor,) = {*support.actors("coordinator-")} - before
        ray.kill(actor)
        thread.join(60)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [StateError]
        assert "nothing is lost" in str(errors[0])
        assert system.ledger.request(request_id).state is RequestState.PLANNED
    scene.pause.unlink()
    # The dead one held both CPUs of the cluster; they must not be lost with it.
    with hybridmu.connect(scene.config) as system:
        thread = Thread(target=system.wait, args=(request_id,))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        report = system.report(request_id)
        assert report["state"] == RequestState.SERVED
        assert [shard["first_slice"] for shard in report["shards"]] == [2, 2], "finished slices are found by lineage"
        assert support.blobs(system) == scene.undisturbed()
