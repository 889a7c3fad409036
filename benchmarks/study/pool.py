"""Pools that run the study's jobs: on actors of Ray, or in this process. The only module here that imports Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks.study.worker import StudyWorker
from hybridmu.config import Settings

Call = tuple[int, str, tuple[Any, ...]]  # shard, method, arguments


class Pool(Protocol):
    """Runs calls on workers; a shard always meets the same worker, which has its rows."""

    workers: int

    def run(self, settings: Settings, calls: Sequence[Call]) -> list[Any]:
        """Return the results in the order of the calls."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class LocalPool:
    """One worker in this process."""

    workers = 1

    def __init__(self) -> None:
        self._worker = StudyWorker()

    def run(self, settings: Settings, calls: Sequence[Call]) -> list[Any]:
        """Return the results in the order of the calls."""
        return [self._worker.call(settings, method, *arguments) for _, method, arguments in calls]

    def close(self) -> None:
        """Nothing is held."""


class RayPool:
    """Actors of one CPU each, on the cluster that is there or a local one.

    Args:
        workers: How many.
        address: Ray's; None starts a local one.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        import ray

        self._ray, self.workers = ray, workers
        if not ray.is_initialized():
            local = {} if address else {"num_cpus": workers, "include_dashboard": False}
            ray.init(address=address, namespace="hybridmu", log_to_driver=False, logging_level="warning", **local)
        shell = ray.remote(num_cpus=1)(StudyWorker)
        self._actors = [shell.remote() for _ in range(workers)]

    def run(self, settings: Settings, calls: Sequence[Call]) -> list[Any]:
        """Return the results in the order of the calls."""
        return list(
            self._ray.get([
                self._actors[shard % self.workers].call.remote(settings, method, *arguments)
                for shard, method, arguments in calls
            ])
        )

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            self._ray.kill(actor)
