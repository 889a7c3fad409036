"""Processes of a running Ray cluster are killed, by their ids, while requests come in; the end is compared."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ray
from ray._private import state as cluster_state

import hybridmu
from hybridmu.errors import HybridMUError
from tests.faults.lives import let_time_pass, look, settled
from tests.faults.worlds import Act
from tests.ray import support
from tests.support import HANG_SECONDS

# Name of an actor begins with it → how often it is chosen.
VICTIMS = {"coordinator-": 3, "shard-": 5, "updater-": 2}
_ROWS = 300
_END_SECONDS = HANG_SECONDS
_COME_SECONDS = 15.0


@dataclass(frozen=True)
class Death:
    """Who was killed, and how many requests had been acknowledged by then."""

    name: str
    pid: int
    asked: int


class RayChaos:
    """One system on a cluster that this process has joined.

    Args:
        folder: Empty.
        seed: Everything is drawn from it, but for when the cluster does what.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self._draw = random.Random(seed)
        self._brake = folder / "pause"
        self._ids = self._draw.sample(range(_ROWS), 200)
        self.acts: list[Act] = []
        self.told: dict[str, str] = {}
        self.config = self._config("storage")
        with hybridmu.connect(self.config, executor="local") as system:
            system.train()

    def _config(self, storage: str) -> dict[str, Any]:
        # A brake makes the training of a slice take a good part of a second, without changing a bit of it.
        task = {"name": "tests.ray.tasks:Pausable", "hidden": [8], "pause": str(self._brake), "seconds": 0.01}
        sisa = {"shards": 2, "slices": 3, "epochs": 4}
        policy = {"strategy": "auto", "calibrate": False, "verify_share": 0.0, "max_attempts": 50}
        return support.config(self.folder, storage, sisa=sisa, task=task, policy=policy)

    def run(self, kills: int, told: Callable[[Death], None] = lambda _: None) -> dict[str, Any]:
        """Kill so many processes while requests come in, let it end, and return what is wrong then.

        Args:
            kills: How many.
            told: Called with every death.

        Raises:
            AssertionError: It does not come to an end.
        """
        self._brake.touch()
        stop = Event()
        driver = Thread(target=self._drive, args=(stop,), daemon=True)
        driver.start()
        deaths = 0
        with hybridmu.connect(self.config, executor="local") as client:
            while deaths < kills:
                (prefix,) = self._draw.choices([*VICTIMS], [*VICTIMS.values()])
                if self._wait_for(prefix, client):
                    time.sleep(self._draw.random() * 0.5)
                    if victim := self._kill(prefix):
                        deaths += 1
                        told(Death(*victim, len(self.told)))
            self._brake.unlink()
            stop.set()
            driver.join()
            assert not driver.is_alive(), client.requests()
        return self._compared()

    def _ask(self, client: hybridmu.System) -> None:
        """Be a client: nothing is done before the answer is noted."""
        number = len(self.acts)
        strategy = self._draw.choice(("auto", "retrain", "dpus", "dpus-optimised"))
        ids = tuple(self._ids.pop() for _ in range(self._draw.randint(1, 3)))
        act = Act(0, "forget", f"k{number}", ids, strategy=strategy)
        report = client.forget(ids=act.ids, strategy=strategy, key=act.key)  # type: ignore[arg-type]
        self.acts.append(act)
        self.told[act.key] = report["request_id"]

    def _wait_for(self, prefix: str, client: hybridmu.System) -> bool:
        """Return whether an actor of a kind came up, while there was work for it."""
        end = time.monotonic() + _COME_SECONDS
        while time.monotonic() < end:
            if sum(request.applied_at is None for request in client.ledger.requests()) < 2:
                self._ask(client)
            if self._alive(prefix):
                return True
            time.sleep(0.02)
        return False

    def _kill(self, prefix: str) -> tuple[str, int] | None:
        """Kill one process of a kind."""
        with suppress(ProcessLookupError, IndexError):
            name, pid = self._draw.choice(self._alive(prefix))
            os.kill(pid, signal.SIGKILL)
            return name, pid
        return None

    def _alive(self, prefix: str) -> list[tuple[str, int]]:
        found = [actor for actor in cluster_state.actors().values() if actor["State"] == "ALIVE"]
        return sorted((actor["Name"], actor["Pid"]) for actor in found if actor["Name"].startswith(prefix))

    def _drive(self, stop: Event) -> None:
        """Be whoever starts the coordinator, again and again, until everything is purged after `stop`."""
        end = None
        while end is None or time.monotonic() < end:
            let_time_pass(self.config)
            with hybridmu.connect(self.config, "ray") as system, suppress(HybridMUError, ray.exceptions.RayError):
                while end is None or time.monotonic() < end:
                    snapshot = system.session.coordination.step(0.1)
                    if stop.is_set():
                        end = end or time.monotonic() + _END_SECONDS
                        if settled(system, snapshot):
                            return

    def _compared(self) -> dict[str, Any]:
        found = look(self.config, self.acts, self.told)
        with hybridmu.connect(self._config("undisturbed"), executor="local") as system:
            system.train()
            system.forget(ids=[number for act in self.acts for number in act.ids], strategy="retrain", wait=True)
            blobs = {str(shard): blob for shard, blob in support.blobs(system).items()}
        wrong = [shard for shard, blob in blobs.items() if found["blobs"].get(shard) != blob]
        found["diverged"] += [f"other weights in shard {shard}" for shard in wrong]
        return found
