"""Clients that ask over HTTP while rows are forgotten and purged."""

from __future__ import annotations

import io
import json
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from hybridmu.demo.screen import Phases
from hybridmu.extras import extra
from hybridmu.system.system import System

_CLIENTS = 2
_PAUSE_SECONDS = 0.05  # two cores are there for the deletions too
_FEW_SECONDS = 0.5


class Clients:
    """Threads that ask for predictions until they are stopped.

    Args:
        address: URL of the endpoint.
        body: What each of them posts.

    Attributes:
        versions: Which one gave each answer.
        answers: Version → the predictions that it gave first.
        failures: Why an answer did not come.
    """

    def __init__(self, address: str, body: bytes) -> None:
        self.versions: list[int] = []
        self.answers: dict[int, list[dict[str, Any]]] = {}
        self.failures: list[str] = []
        self._address, self._body = address, body
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Let them ask for a moment."""
        self._stop.wait(_FEW_SECONDS)

    def stop(self) -> None:
        """End them after their last answers; repeating it does nothing."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def report(self, served: int) -> dict[str, Any]:
        """Return what they saw.

        Args:
            served: The version that must have answered last.
        """
        return {
            "answers": len(self.versions),
            "failures": len(self.failures),
            "first_failures": self.failures[:3],
            "versions": sorted(set(self.versions)),
            "last_version": self.versions[-1] if self.versions else None,
            "expected_version": served,
        }

    def _ask(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            try:
                request = urllib.request.Request(self._address, self._body, {"content-type": "application/json"})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    told = json.load(answer)
                self.answers.setdefault(told["version"], told["predictions"])
                self.versions.append(told["version"])
            except (OSError, ValueError, KeyError) as error:  # a refusal, a broken connection, half an answer
                self.failures.append(str(error))


@contextmanager
def serving(system: System, phases: Phases, rows: Sequence[dict[str, Any]]) -> Iterator[Clients]:
    """Serve the model, with clients that ask about some rows all the time.

    Args:
        system: A trained system.
        phases: The demo's bar.
        rows: As they are to be predicted.

    Yields:
        The clients.
    """
    phases.begin("starting Ray Serve")
    with extra("serve"):
        from ray import serve  # the heaviest import; only this part needs it

        from hybridmu.cluster.announcements import APPLICATION
        from hybridmu.cluster.serve_deployment import make_application

    settings = system.settings.serving
    body = json.dumps({"rows": list(rows)}).encode()
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        serve.run(make_application(system.settings), name=APPLICATION)
        clients = Clients(f"http://{settings.host}:{settings.port}/v1/predict", body)
        try:
            clients.wait()
            yield clients
        finally:
            clients.stop()
    finally:
        phases.begin("stopping Ray Serve")
        # Ray prints on standard output, where the result goes, that the task which ended the controller did not end.
        with redirect_stdout(io.StringIO()):
            serve.shutdown()
