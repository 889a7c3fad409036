"""Several writers at once, each with its own connections, on both kinds of database."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import event

import hybridmu
from hybridmu.errors import ConflictError, LeaseLostError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease, fence
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.types import RequestState
from tests.support import HANG_SECONDS, key, repeat, rows_of, settings_dict

THREADS = 8


def test_a_reader_never_meets_a_tombstone_behind_its_watermark(engine, ledger, database_url):
    """Numbers are in commit order: were one drawn before and committed after another, a watermark would skip it."""
    start, stop = threading.Barrier(THREADS + 1), threading.Event()
    looks: list[set[int]] = []

    def accept(thread: int) -> None:
        own = connect(database_url)
        pause = random.Random(thread)
        # Whoever draws a number early must be able to commit late, or nothing is shown.
        event.listen(own, "commit", lambda _: time.sleep(pause.random() / 100))
        start.wait()
        for n in range(10):
            Ledger(own).accept([key(thread * 1000 + n * 10 + part, shard=part) for part in range(3)])
        own.dispose()

    def look() -> None:
        start.wait()
        while not stop.is_set():
            looks.append({stone.seq for found in ledger.tombstones().values() for stone in found})

    with ThreadPoolExecutor(THREADS + 1) as pool:
        looking = pool.submit(look)
        for accepting in [pool.submit(accept, thread) for thread in range(THREADS)]:
            accepting.result()
        stop.set()
        looking.result()
    final = [row.seq for row in rows_of(engine, t.tombstones)]
    assert len(final) == THREADS * 30
    assert len({len(seen) for seen in looks}) > 5, "the reader must have looked in between"
    for seen in looks:
        assert seen == {seq for seq in final if seq <= max(seen, default=0)}


def test_one_idempotency_key_is_one_request_however_many_race(engine, database_url):
    start = threading.Barrier(THREADS)

    def accept(thread: int) -> str:
        own = connect(database_url)
        start.wait()
        found = Ledger(own).accept([key(thread)], repeat=repeat("k", ["the same"]))
        own.dispose()
        return found.request_id

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(accept, range(THREADS)))) == 1
    assert len(rows_of(engine, t.requests)) == len(rows_of(engine, t.tombstones)) == 1


def test_of_two_payloads_that_race_for_a_key_one_is_a_conflict(engine, database_url):
    start = threading.Barrier(2)

    def accept(thread: int) -> bool:
        own = connect(database_url)
        start.wait()
        try:
            Ledger(own).accept([key(thread)], repeat=repeat("k", [thread]))
        except ConflictError:
            return False
        finally:
            own.dispose()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(accept, range(2))) == [False, True]
    assert len(rows_of(engine, t.requests)) == 1


def test_the_same_rows_asked_by_many_are_revoked_once(engine, database_url):
    start = threading.Barrier(THREADS)

    def accept(_: int) -> str:
        own = connect(database_url)
        start.wait()
        found = Ledger(own).accept([key(1), key(2)])
        own.dispose()
        return found.request_id

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(accept, range(THREADS)))) == 1
    assert len(rows_of(engine, t.tombstones)) == 2


def test_what_is_written_under_the_fence_is_in_the_order_of_tokens(engine, database_url):
    """Holders that never renew are pushed aside all the time, and go on writing until they are told."""
    start, stop = threading.Barrier(4), threading.Event()
    takes: list[int] = []

    def fight(thread: int) -> None:
        own = connect(database_url)
        start.wait()
        while not stop.is_set():
            token = Lease(own).acquire(f"holder {thread}", 0.01)
            if token is None:
                continue
            takes.append(token)
            if len(takes) > 10:
                stop.set()
            try:
                while not stop.is_set():
                    with own.begin() as connection:
                        fence(connection, token)
                        values = {"visits": token, "checkpoints": 0, "rows": 0, "seconds": 0.0}
                        connection.execute(t.costs.insert().values(strategy=f"holder {thread}", **values))
                    time.sleep(0.02)  # longer than the lease
            except LeaseLostError:
                continue
        own.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fight, range(4)))
    rows = sorted(rows_of(engine, t.costs), key=lambda row: row.id)
    assert [row.visits for row in rows] == sorted(row.visits for row in rows)
    assert len({(row.visits, row.strategy) for row in rows}) == len({row.visits for row in rows}), (
        "one token, one holder"
    )


HOLDER = """
import sys, time
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
lease = Lease(connect(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(lease.acquire(sys.argv[2], 30), flush=True)
"""


def test_of_processes_that_reach_for_the_lease_one_gets_it(engine, database_url):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLDER, database_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    started = [subprocess.Popen([*command, f"process {n}"], **pipes) for n in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=HANG_SECONDS)[0].strip() for process in started]
    assert sorted(answers) == ["1", "None", "None"]
    assert Lease(engine).holder() == f"process {answers.index('1')}"


def test_two_coordinators_fulfil_every_request_once(tmp_path, make_table, database_url, monkeypatch):
    monkeypatch.setattr("hybridmu.runtime.coordinator.leadership.LEASE_SECONDS", 1.0)
    make_table()
    config = settings_dict(tmp_path, database_url=database_url, sisa={"shards": 2, "slices": 2})
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    start = threading.Barrier(2)

    def work(thread: int) -> list[str]:
        with hybridmu.connect(config, executor="local") as mine:
            start.wait()
            return [mine.forget(ids=[thread * 100 + n], wait=True)["request_id"] for n in range(2)]

    with ThreadPoolExecutor(2) as pool:
        asked = [request_id for found in pool.map(work, range(2)) for request_id in found]
    alone = config | {"database_url": None, "storage_url": str(tmp_path / "alone")}
    with hybridmu.connect(config, executor="local") as system, hybridmu.connect(alone, executor="local") as other:
        requests = {request.request_id: request for request in system.ledger.requests()}
        assert set(requests) == set(asked)
        assert {request.state for request in requests.values()} <= {RequestState.SERVED, RequestState.PURGED}
        other.train()
        other.forget(ids=[0, 1, 100, 101], wait=True)
        assert [sub.blob for sub in system.registry.version().shards] == [
            sub.blob for sub in other.registry.version().shards
        ]
    engine = connect(database_url)
    done: dict[int, list[int]] = {}
    for row in sorted(rows_of(engine, t.version_shards), key=lambda row: row.version):
        done.setdefault(row.shard, []).append(row.exact_upto)
    stones = rows_of(engine, t.tombstones)
    engine.dispose()
    assert len(stones) == len(asked)
    for shard, marks in done.items():  # every version brought a shard further: nothing was published twice
        assert marks == sorted(set(marks))
        assert marks[-1] == max((stone.seq for stone in stones if stone.shard == shard), default=0)
