"""Cost of serving beside a no-op deployment, and the effect of swaps and quarantines on callers.

    python benchmarks/bench_serving.py [--json] [--out CSV] [--seconds 5] [--rounds 5] [--swaps 100] [--groups 2]
    RAY_SERVE_ENABLE_HA_PROXY=1 python benchmarks/bench_serving.py      # HAProxy before the replicas (docs/serving.md)

* throughput and p99 of the ensemble over those of a deployment that takes the same bodies, batches them alike and
  gives a constant answer of the same shape; in turns, in one run (goals: at least 0.9, at most 1.3);
* swaps under load: failed requests and answers older than a version that was reported SERVED (goals: none);
* quarantine: from the acceptance of a request to the moment from which no answer counts the touched shards, written by
  the replicas, and seen by those who ask (goal: 1 s, p95).

Clients are closed loops in processes of their own, on the machine that serves.
"""

import argparse  # no `from __future__ import annotations` here: FastAPI needs real types when Serve rebuilds the class
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow.parquet as pq
from fastapi import FastAPI
from ray import serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import benchmarks
from benchmarks.study.grid import SETUPS, settings_of
from hybridmu.cluster.announcements import APPLICATION
from hybridmu.cluster.serve_deployment import make_application
from hybridmu.serving.answer_schemas import PredictRequest, PredictResponse
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.system.system import System
from hybridmu.types import KeyKind

_HOST, _PORT = "127.0.0.1", 8123
noop = FastAPI()


@serve.deployment(name="NoOp", num_replicas=1, ray_actor_options={"num_cpus": 0})
@serve.ingress(noop)
class NoOp:
    """Takes and batches like the ensemble, and answers the same thing whatever was asked.

    Args:
        prediction: The answer to every row.
        size: Requests per batch.
        wait: Seconds that a batch waits.
    """

    def __init__(self, prediction: dict[str, Any], size: int, wait: float) -> None:
        self._prediction = prediction
        self._batch.set_max_batch_size(size)
        self._batch.set_batch_wait_timeout_s(wait)

    @noop.post("/v1/predict", response_model=PredictResponse)
    async def predict(self, request: PredictRequest) -> dict[str, Any]:
        """Return the constant answer."""
        answer: dict[str, Any] = await self._batch(request.rows)
        return answer

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def _batch(self, requests: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [{"version": 1, "withheld": 0, "predictions": [self._prediction] * len(rows)} for rows in requests]


@dataclass(frozen=True)
class Asked:
    """One answer.

    Attributes:
        began: When it was asked, as `time.time`.
        seconds: How long it took.
        version: What answered; 0: it failed.
        withheld: How many sub-models did not vote.
        says: Why it failed.
    """

    began: float
    seconds: float
    version: int
    withheld: int = 0
    says: str = ""


def ask(url: str, body: bytes, clients: int, until: Any, found: Any) -> None:
    """Ask in closed loops until a moment, or until an event, and put all answers into a queue."""

    async def one(session: aiohttp.ClientSession, made: list[Asked]) -> None:
        while time.time() < until.value:
            began, clock = time.time(), time.perf_counter()
            try:
                async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
                    given = await answer.json()
                    right = answer.status == 200 and given["predictions"]
                    version, withheld = (given["version"], given["withheld"]) if right else (0, 0)
                    says = "" if right else f"{answer.status} {given}"
            except (OSError, aiohttp.ClientError, ValueError, KeyError) as error:
                version, withheld, says = 0, 0, repr(error)
            made.append(Asked(began, time.perf_counter() - clock, version, withheld, says))

    async def every() -> list[Asked]:
        made: list[Asked] = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            await asyncio.gather(*(one(session, made) for _ in range(clients)))
        return made

    found.put(asyncio.run(every()))


class Load:
    """Closed loops that run beside this process.

    Args:
        url: What they ask.
        body: What they post.
        clients: Loops.
    """

    def __init__(self, url: str, body: bytes, clients: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._until, self._found = context.Value("d", time.time() + 3600), context.Queue()
        self._process = context.Process(target=ask, args=(url, body, clients, self._until, self._found), daemon=True)
        self._process.start()

    def stop(self) -> list[Asked]:
        """Return all answers, oldest first."""
        self._until.value = 0.0
        made: list[Asked] = self._found.get(timeout=60)
        self._process.join()
        return sorted(made, key=lambda each: each.began)


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", default="adult/mlp", choices=sorted(SETUPS))
    parser.add_argument("--rows", type=int, default=1, help="rows of a request")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--quarantines", type=int, default=30)
    parser.add_argument("--groups", type=int, default=1, help="processes over which the sub-models are spread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a CSV file that figures are appended to")
    parser.add_argument("--case", default="one process", help="what the CSV file calls this run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(SETUPS[given.setup], 0, Path(folder))
        policy = settings.policy.model_copy(update={"calibrate": False, "strategy": "retrain", "quarantine": True})
        serving = settings.serving.model_copy(update={"groups": given.groups})
        settings = settings.model_copy(update={"policy": policy, "serving": serving})
        with hybridmu.connect(settings, executor="local") as trainer:
            trainer.train()
        with hybridmu.connect(settings, "ray") as system:
            result = bench(system, given)
    figures = {name: value for name, value in result.items() if isinstance(value, int | float)}
    benchmarks.write(given.out, "serving", {given.case: figures})
    print(json.dumps(result) if given.json else json.dumps(result, indent=1))


def bench(system: System, given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    settings = system.settings
    body, prediction = _body(system, given.rows)
    serve.start(proxy_location="HeadOnly", http_options={"host": _HOST, "port": _PORT})
    try:
        serve.run(make_application(settings), name=APPLICATION, route_prefix="/")
        size, wait = settings.serving.max_batch_size, settings.serving.batch_wait_ms / 1000
        idle = NoOp.options(max_ongoing_requests=2 * size)  # type: ignore[attr-defined]
        serve.run(idle.bind(prediction, size, wait), name="noop", route_prefix="/noop")
        turns = _turns(body, given)
        load = Load(f"http://{_HOST}:{_PORT}/v1/predict", body, 4)
        try:
            ids = _trained(system, given.swaps + given.quarantines)
            swaps = _swap(system, ids[: given.swaps])
            quarantines = _quarantine(system, ids[given.swaps :])
        finally:
            answers = load.stop()
        return turns | _judged(answers, swaps, quarantines)
    finally:
        serve.shutdown()


def _body(system: System, rows: int) -> tuple[bytes, dict[str, Any]]:
    data = system.settings.data
    table = pq.read_table(data.test or data.train).slice(0, rows)
    asked = table.select([column.name for column in system.site.lake.manifest.encoder.columns]).to_pylist()
    return json.dumps({"rows": asked}, default=float).encode(), system.predict(asked[:1])["predictions"][0]


def _turns(body: bytes, given: argparse.Namespace) -> dict[str, Any]:
    """Return throughput and latencies of both, taken in turns after one turn to warm up."""
    found: dict[str, list[list[Asked]]] = {"/noop": [], "": []}
    for number in range(given.rounds + 1):
        for path in found if number % 2 else reversed(found):
            load = Load(f"http://{_HOST}:{_PORT}{path}/v1/predict", body, given.clients)
            time.sleep(given.seconds + 2)  # the process starts meanwhile
            made = load.stop()
            if number:
                found[path].append([each for each in made if each.began > made[0].began + 1])

    def rate(made: Sequence[Asked]) -> float:
        return len(made) / (made[-1].began - made[0].began)

    def high(made: Sequence[Asked], share: float) -> float:
        return float(np.percentile([each.seconds for each in made], share))

    pairs = list(zip(found[""], found["/noop"], strict=True))
    return {
        "throughput_ratio": statistics.median(rate(ours) / rate(theirs) for ours, theirs in pairs),
        "p99_ratio": statistics.median(high(ours, 99) / high(theirs, 99) for ours, theirs in pairs),
        "p50_ratio": statistics.median(high(ours, 50) / high(theirs, 50) for ours, theirs in pairs),
        "requests_per_second": statistics.median(rate(ours) for ours, _ in pairs),
        "p50_ms": 1000 * statistics.median(high(ours, 50) for ours, _ in pairs),
        "p99_ms": 1000 * statistics.median(high(ours, 99) for ours, _ in pairs),
        "failed": sum(each.version == 0 for turns in found.values() for made in turns for each in made),
        "first_failed": next((e.says for turns in found.values() for made in turns for e in made if e.says), None),
        "rows": given.rows,
        "clients": given.clients,
    }


def _swap(system: System, ids: Sequence[object]) -> list[tuple[float, int]]:
    """Return when the version without each of these rows was reported SERVED."""
    served = []
    for number in ids:
        request = system.wait(str(system.forget(ids=[number])["request_id"]))
        served.append((time.time(), request.version_after or 0))
    return served


def _quarantine(system: System, ids: Sequence[object]) -> list[tuple[float, float]]:
    """Return acceptance and written moment of requests that nobody fulfils meanwhile."""
    found = []
    for number in ids:
        request_id = str(system.forget(ids=[number])["request_id"])
        while (at := system.ledger.request(request_id).quarantined_at) is None:
            time.sleep(0.01)
        time.sleep(0.2)  # some answers of that state
        found.append((system.ledger.request(request_id).received_at, at))
        system.wait(request_id)
    return found


def _trained(system: System, count: int) -> list[Any]:
    """Return ids of so many rows that a sub-model was trained on."""
    data = system.settings.data
    ids = pq.read_table(data.train, columns=[data.id]).column(0).slice(0, 2 * count).to_pylist()
    keys: list[tuple[KeyKind, object]] = [("id", number) for number in ids]
    found, _ = Lookup(system.site.lake).find(keys)
    return [number for number, key in zip(ids, found, strict=True) if key.slice > 0][:count]


def _judged(
    answers: Sequence[Asked], served: Sequence[tuple[float, int]], quarantines: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Return what those who asked saw."""
    old = sum(
        each.version < max((version for at, version in served if at < each.began), default=0)
        for each in answers
        if each.version
    )
    counted = 0
    for _, at in quarantines:
        during = [each for each in answers if at < each.began < at + 0.2]
        counted += sum(not each.withheld for each in during)
    waits = [at - received for received, at in quarantines]
    return {
        "swaps": len(served),
        "answers": len(answers),
        "failed_requests": sum(each.version == 0 for each in answers),
        "answers_older_than_served": old,
        "quarantines": len(waits),
        "quarantine_p50_seconds": float(np.percentile(waits, 50)) if waits else None,
        "quarantine_p95_seconds": float(np.percentile(waits, 95)) if waits else None,
        "answers_that_counted_a_quarantined_shard": counted,
        "slowest_answers_ms": [round(1000 * each.seconds) for each in sorted(answers, key=lambda a: -a.seconds)[:3]],
        "first_failed_request": next((each.says for each in answers if each.says), None),
    }


if __name__ == "__main__":
    main()
