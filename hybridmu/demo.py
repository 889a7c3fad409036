"""The demo: train, forget, prove and serve on real digits, on a local Ray, and write a report."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hybridmu.config import Settings
from hybridmu.planning import cost
from hybridmu.report import plots
from hybridmu.report.html import render
from hybridmu.runtime.coordinator import Snapshot
from hybridmu.runtime.removal import policy_of
from hybridmu.runtime.verify import accuracy_of, test_rows
from hybridmu.system import System

_BATCH_SHARE = 0.05
_STEPS = 10
_CLIENTS = 2
_WIDTH = 140


def demo_settings(folder: Path) -> Settings:
    """Return the demo's configuration: MNIST-5k, S = 8, R = 5, one actor per shard.

    The deadline is short, so that a deletion in one shard can be retrained in time and one in all shards can't.
    """
    return Settings.parse({
        "data": {"name": "mnist5k", "validation_fraction": 0.1},
        "task": {"name": "mlp", "hidden": [128]},
        "sisa": {"shards": 8, "slices": 5, "epochs": 30, "batch_size": 16, "seed": 0},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "policy": {"deadline_seconds": 1.0, "light_seconds": 0.0},
        "storage_url": str(folder / "system"),
    })


def run_demo(output: Path, console: Console) -> dict[str, Any]:
    """Run everything and write `report.json` and `report.html`.

    Args:
        output: Folder of the report; the system of an earlier demo in it is removed.
        console: Where progress and the table go.

    Returns:
        The report; `ok` says whether every proof held and no request failed.
    """
    output = output.absolute()
    shutil.rmtree(output / "system", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with _steps(console) as step:
        step("reading MNIST-5k, starting Ray")
        with System(demo_settings(output)) as system:
            training = system.train(lambda snapshot: step(_training_text(snapshot), advance=False))
            training["worker_seconds"] = sum(c.seconds for c in system.measurements.costs())
            step("trained")
            table = pq.read_table(system.settings.data.train, columns=["id", "user"])
            ids, users = table["id"].to_pylist(), table["user"].to_pylist()
            batch = ids[:: round(1 / _BATCH_SHARE)]
            deletions = [
                _forget(system, step, "one row", ids=[_training_id(system, ids)]),
                _forget(system, step, f"one user ({users[123]})", groups=[users[123]]),
                _forget(system, step, "a batch over all shards", ids=batch),
            ]
            step("starting Ray Serve")
            serving = _serve(system, step, ids[1234])
            step("writing the report")
            report = {
                "ok": all(d["proven"] for d in deletions) and serving["failures"] == 0,
                "about": "MNIST-5k (real digits; users are synthetic), 8 shards of 5 slices, one Ray actor per shard.",
                "training": training,
                "deletions": deletions,
                "serving": serving,
                "seconds": time.perf_counter() - started,
            }
            _write(output, report, system)
    _show(console, report, output)
    return report


def _forget(system: System, step: Any, name: str, **keys: Any) -> dict[str, Any]:
    """Return plan, outcome and proof of one deletion."""
    step(f"{name}: planning and forgetting")
    before = _accuracy(system)
    plan = system.plan(**keys)
    found = system.forget(**keys, wait=True)
    step(f"{name}: proving against a training from scratch")
    touched = [entry["shard"] for entry in found["shards"]]
    proof = system.verify(touched)
    exact = [entry for entry in proof["shards"] if entry["exact"]]
    gaps = [entry["forget_loss_gap"] for entry in proof["shards"] if entry.get("forget_loss_gap") is not None]
    says = f"{len(exact)} shard(s) bit for bit" if exact else ""
    if gaps:
        says += f"{', ' if says else ''}{len(gaps)} with gap {min(gaps):+.3f}..{max(gaps):+.3f}"
    strategies = [entry["strategy"] for entry in found["shards"]]
    return {
        "name": name,
        "rows": sum(entry["revoked"] for entry in found["shards"]),
        "strategies": ", ".join(f"{strategies.count(s)} {s}" for s in sorted(set(strategies))),
        "estimated_seconds": sum(entry["estimated_seconds"] for entry in found["shards"]),
        "measured_seconds": sum(entry["measured_seconds"] for entry in found["shards"]),
        "seconds_to_applied": found["seconds_to_applied"],
        "accuracy_before": before,
        "accuracy_after": _accuracy(system),
        "proven": proof["exact_claims_hold"],
        "proof": says if proof["exact_claims_hold"] else "NOT equal to the oracle",
        "plan": plan.explain(),
        "warnings": list(plan.warnings),
        "shards": found["shards"],
        "verify": proof,
    }


def _training_id(system: System, ids: list[int]) -> int:
    """Return a row that was trained on; the others were set aside for validation."""
    return next(row for row in ids if any(shard.revoked for shard in system.plan(ids=[row]).shards))


def _serve(system: System, step: Any, row_id: int) -> dict[str, Any]:
    """Return what clients saw over HTTP while one more row was forgotten."""
    from ray import serve  # the heaviest import; only this part needs it

    from hybridmu.cluster.announce import APPLICATION
    from hybridmu.cluster.serving import make_application

    address = f"http://{system.settings.serving.host}:{system.settings.serving.port}/v1/predict"
    serve.start(http_options={"host": system.settings.serving.host, "port": system.settings.serving.port})
    serve.run(make_application(system.settings), name=APPLICATION)
    step("answering over HTTP while one more row is forgotten")
    rows = pq.read_table(system.settings.data.test or "").slice(0, 1).to_pylist()
    body = json.dumps({"rows": [{"pixels": rows[0]["pixels"]}]}).encode()
    seen: list[int] = []
    failures: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                request = urllib.request.Request(address, body, {"content-type": "application/json"})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    seen.append(json.load(answer)["version"])
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                failures.append(str(error))

    threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    found = system.forget(ids=[row_id], wait=True)
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    serve.shutdown()
    return {
        "answers": len(seen),
        "failures": len(failures),
        "first_failures": failures[:3],
        "version_before": seen[0] if seen else None,
        "version_after": seen[-1] if seen else None,
        "expected_version": found["version_after"],
        "seconds_to_served": found["seconds_to_served"],
    }


def _accuracy(system: System) -> float:
    gone = {s: {(str(x.kind), x.key) for x in stones} for s, stones in system.ledger.tombstones().items()}
    return accuracy_of(system.site, system.registry.version().shards, test_rows(system.site, gone)) or 0.0


def _write(output: Path, report: dict[str, Any], system: System) -> None:
    fitted = cost.fit(system.measurements.costs())
    outcomes = [entry for deletion in report["deletions"] for entry in deletion["shards"]]
    settings = system.settings
    rows = report["training"]["rows"]["train"] // (settings.sisa.shards * settings.sisa.slices)
    pictures = [
        plots.time_against_workload(outcomes, fitted),
        plots.boundary(
            system.site.recipe_for(0).epochs, rows, fitted, policy_of(settings), system.measurements.calibration()
        ),
        plots.gaps([entry for deletion in report["deletions"] for entry in deletion["verify"]["shards"]]),
    ]
    (output / "report.json").write_text(json.dumps(report, indent=1, default=str))
    (output / "report.html").write_text(render("demo.html.j2", report=report, plots=pictures))


def _show(console: Console, report: dict[str, Any], output: Path) -> None:
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)  # a log has no margin
    table = Table("deletion", "rows", "strategies", "est. s", "meas. s", "applied s", "accuracy", "proof")
    for d in report["deletions"]:
        seconds = [f"{d[name]:.2f}" for name in ("estimated_seconds", "measured_seconds", "seconds_to_applied")]
        accuracy = f"{d['accuracy_before']:.4f} -> {d['accuracy_after']:.4f}"
        table.add_row(d["name"], str(d["rows"]), d["strategies"], *seconds, accuracy, d["proof"])
    console.print(table)
    served = report["serving"]
    console.print(
        f"{served['answers']} HTTP answers while one more row was forgotten, {served['failures']} failed, "
        f"version {served['version_before']} -> {served['version_after']}"
    )
    console.print(f"{report['seconds']:.0f} s in all; report: {output / 'report.html'}", highlight=False)


def _training_text(snapshot: Snapshot) -> str:
    if snapshot.calibrating:
        return "calibrating the approximate update"
    return f"training shards {snapshot.jobs_done}/{snapshot.jobs_total}"


@contextmanager
def _steps(console: Console) -> Iterator[Any]:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=_STEPS)

        def step(text: str, *, advance: bool = True) -> None:
            progress.update(task, description=text, advance=1 if advance else 0)

        yield step
