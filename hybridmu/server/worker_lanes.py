"""Lanes of worker threads: calls of one kind never wait for another kind, and callers take turns."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from hybridmu.errors import AdmissionError
from hybridmu.system.system import System

_T = TypeVar("_T")
_Job = tuple["Future[Any]", Callable[[System], Any]]


class Lane:
    """Threads with a system each. A caller has at most all of them but one, so that the others are not kept waiting.

    Args:
        name: Of its threads.
        systems: One per thread; a system is used by one thread at a time.
        waiting: How many calls of one caller may wait.
    """

    def __init__(self, name: str, systems: Sequence[System], waiting: int) -> None:
        self._threads = ThreadPoolExecutor(len(systems), name)
        self._free = list(systems)
        self._most, self._waiting = max(1, len(systems) - 1), waiting
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def run_call(self, caller: str, work: Callable[[System], _T]) -> _T:
        """Return what a piece of work returns; the event loop answers other calls meanwhile.

        Args:
            caller: Who calls.
            work: What is to be done with a system.

        Raises:
            AdmissionError: Too many calls of this caller wait.
        """
        future: Future[_T] = Future()
        with self._lock:
            queue = self._queues.setdefault(caller, deque())
            if len(queue) >= self._waiting:
                raise AdmissionError(
                    "too many calls of this caller are waiting",
                    expected=f"at most {self._waiting} at once",
                    remedy="wait for their answers, or send many ids in one call",
                )
            queue.append((future, work))
            self._start()
        return await asyncio.wrap_future(future)

    def _start(self) -> None:
        """Hand free systems to callers, those first who waited longest for their turn; the lock is held."""
        for caller in list(self._queues):
            while self._free and self._queues[caller] and self._busy[caller] < self._most:
                self._busy[caller] += 1
                self._queues.move_to_end(caller)
                self._threads.submit(self._do, caller, self._free.pop(), self._queues[caller].popleft())
            if not self._queues[caller]:
                del self._queues[caller]

    def _do(self, caller: str, system: System, job: _Job) -> None:
        future, work = job
        try:
            if future.set_running_or_notify_cancel():  # a caller that left needs no answer
                future.set_result(work(system))
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                self._free.append(system)
                self._busy -= Counter((caller,))  # drops what is 0
                self._start()
