"""The demo: train, forget, prove, serve, purge and certify on real digits, on a local Ray, and write a report."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from hybridmu.config import Settings
from hybridmu.core.strategies import asks_exact
from hybridmu.core.strategies.dpus_optimised import DpusOptimised
from hybridmu.demo.ending import certificates, purge, repair, replayed
from hybridmu.demo.load import serving
from hybridmu.demo.screen import Phases, phases, show
from hybridmu.errors import ConfigError
from hybridmu.planning import cost
from hybridmu.report import svg_plots
from hybridmu.report.html_page import render
from hybridmu.runtime.audit.verification import accuracy_of, test_rows
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.store.ownership import MARKER
from hybridmu.system.system import System
from hybridmu.types import KeySet

_BATCH_SHARE = 0.05
_DEADLINE_SECONDS = 3600.0


def demo_settings(folder: Path) -> Settings:
    """Return the demo's configuration: MNIST-5k, S = 8, R = 5, one actor per shard.

    No retrain counts as light, so that the planner weighs it against the update although the data is small.
    """
    # Not `parse`: the demo removes its storage, so that no variable of the environment may name another one.
    return Settings.model_validate({
        "data": {"name": "mnist5k", "validation_fraction": 0.1},
        "task": {"name": "mlp", "hidden": [128]},
        "sisa": {"shards": 8, "slices": 5, "epochs": 30, "batch_size": 16, "seed": 0},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "policy": {"light_seconds": 0.0, "workload_threshold": 0.5},
        "storage_url": str(folder / "system"),
    })


def run_demo(output: Path, console: Console) -> dict[str, Any]:
    """Run everything and write `report.json` and `report.html`.

    Args:
        output: Folder of the report; the system and the keys of an earlier demo in it are removed.
        console: Where progress and the tables go.

    Returns:
        The report; `ok` says whether every proof and certificate held, every request was purged, and none failed.

    Raises:
        ConfigError: The folder holds something else under the name of the system.
    """
    output = output.expanduser().absolute()
    settings = demo_settings(output)
    if (output / "system").exists() and not (output / "system" / MARKER).is_file():
        raise ConfigError(
            f"{output / 'system'} is not of an earlier demo, and would be removed",
            remedy="name another folder: --output",
        )
    for old in ("system", "system-keys"):
        shutil.rmtree(output / old, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with phases(console) as bar:
        bar.begin("reading MNIST-5k, starting Ray")
        with System(settings, "ray") as system:
            report = _live(system, bar)
            bar.begin("writing the report")
            report["seconds"] = time.perf_counter() - started
            _write(output, report, system)
            bar.begin("stopping Ray")
    show(console, report, output)
    return report


def _live(system: System, bar: Phases) -> dict[str, Any]:
    """Return the report of all deletions, from the training to the last certificate."""
    training = system.train(bar.watch_training, calibrate=True)
    training["worker_seconds"] = sum(c.seconds for c in system.measurements.costs())
    # The gap of an update is measured on the rows themselves, so they must not be purged before.
    hold = system.hold("the proofs are made first")["number"]
    table = pq.read_table(system.settings.data.train, columns=["id", "user"])
    ids, user = table["id"].to_pylist(), table["user"].to_pylist()[123]
    row, batch, late = _light_row(system, ids), ids[:: round(1 / _BATCH_SHARE)], ids[1234]
    deletions = [
        forget(system, bar, "one row", ids=[row]),
        forget(system, bar, f"one user ({user})", deadline_seconds=_DEADLINE_SECONDS, groups=[user]),
        # Asked for: left to itself, the planner retrains shards as small as these, and nothing would need repair.
        forget(system, bar, "a batch over all shards", ids=batch, strategy=DpusOptimised.name),
    ]
    with serving(system, bar) as clients:
        deletions.append(forget(system, bar, "one row, while serving", deadline_seconds=_DEADLINE_SECONDS, ids=[late]))
        repairs = repair(system, bar, _updated(deletions))
        names = {deletion["request_id"]: deletion["name"] for deletion in deletions}
        purged = purge(system, bar, [*names], hold, {"ids": [row, *batch, late], "groups": [user]})
        clients.wait()
        clients.stop()
        served = clients.report(system.registry.version().version)
    certified = certificates(system, bar, names)
    replay = replayed(system, bar, deletions[-1]["request_id"])
    report = {
        "about": "MNIST-5k (real digits; users are synthetic), 8 shards of 5 slices, one Ray actor per shard.",
        "training": training,
        "deletions": deletions,
        "serving": served,
        "repairs": repairs,
        "purge": purged,
        "certificates": certified,
        "replay": replay,
        "check": _check_command(system, len(certified)),
        "phases": bar.seconds,
    }
    return {"ok": holds(report), **report}


def forget(
    system: System, bar: Phases, name: str, deadline_seconds: float | None = None, **keys: Any
) -> dict[str, Any]:
    """Return outcome and proof of one deletion.

    Args:
        system: The system.
        bar: The demo's bar.
        name: What to call it.
        deadline_seconds: Until when it must be exact and purged.
        keys: `ids` or `groups`.
    """
    bar.begin(f"{name}: planning and forgetting")
    before, gone = _accuracy(system), _revoked(system)
    warnings = system.plan(**keys).warnings
    found = system.forget(**keys, deadline_seconds=deadline_seconds, wait=True, watch=bar.watch_jobs)
    bar.begin(f"{name}: proving against a training from scratch")
    proof = system.verify([entry["shard"] for entry in found["shards"]], bar.count)
    exact = [entry for entry in proof["shards"] if entry["exact"]]
    gaps = [entry["forget_loss_gap"] for entry in proof["shards"] if entry.get("forget_loss_gap") is not None]
    says = f"{len(exact)} shard(s) bit for bit" if exact else ""
    if gaps:
        says += f"{', ' if says else ''}{len(gaps)} with gap {min(gaps):+.3f}..{max(gaps):+.3f}"
    strategies = [entry["strategy"] for entry in found["shards"]]
    return {
        "name": name,
        "request_id": found["request_id"],
        "rows": _revoked(system) - gone,
        "strategies": ", ".join(f"{strategies.count(s)} {s}" for s in sorted(set(strategies))),
        "estimated_seconds": sum(entry["estimated_seconds"] for entry in found["shards"]),
        "measured_seconds": sum(entry["measured_seconds"] for entry in found["shards"]),
        "seconds_to_applied": found["seconds_to_applied"],
        "accuracy_before": before,
        "accuracy_after": _accuracy(system),
        "proven": proof["exact_claims_hold"],
        "proof": says if proof["exact_claims_hold"] else "NOT equal to the oracle",
        "warnings": list(warnings),
        "shards": found["shards"],
        "verify": proof,
    }


def holds(report: dict[str, Any]) -> bool:
    """Return whether every proof and certificate of a report held, every request was purged, and none failed."""
    served, purged, certified = report["serving"], report["purge"], report["certificates"]
    return (
        all(deletion["proven"] for deletion in report["deletions"])
        and served["failures"] == 0
        and served["last_version"] == served["expected_version"]
        and report["repairs"]["proven"]
        and not purged["not_purged"]
        and purged["rows_before"] > purged["rows_after"] == 0
        and len(certified) == len(report["deletions"])
        and all(entry["chain"] and entry["checks_held"] == entry["checks"] for entry in certified)
        and bool(report["replay"] and report["replay"]["confirmed"])
    )


def _revoked(system: System) -> int:
    """Return how many training rows were revoked so far."""
    return sum(out + since for slices in system.ledger.counts().values() for out, since, _ in slices.values())


def _updated(deletions: list[dict[str, Any]]) -> int:
    return sum(not asks_exact(entry["strategy"]) for deletion in deletions for entry in deletion["shards"])


def _light_row(system: System, ids: list[int]) -> int:
    """Return a row of a late slice, whose shard is retrained lightly; validation rows were not trained on."""
    most = system.settings.policy.workload_threshold

    def light(row: int) -> bool:
        shards = system.plan(ids=[row]).shards
        return any(shard.revoked and shard.workload_ratio <= most for shard in shards)

    return next(row for row in ids if light(row))


def _accuracy(system: System) -> float:
    gone = {shard: KeySet.of(stones) for shard, stones in system.ledger.tombstones().items()}
    return accuracy_of(system.site, system.registry.version().shards, test_rows(system.site, gone)) or 0.0


def _check_command(system: System, number: int) -> str:
    folder = Path(system.settings.storage_url) / "certificates"
    key = sorted(system.settings.keys_folder.glob("*.pub.pem"))[-1:]
    public = f" --public-key {key[0]}" if key else ""
    return f"hybridmu certificate verify {folder / f'{number:08d}.json'} --chain {folder}{public}"


def _write(output: Path, report: dict[str, Any], system: System) -> None:
    fitted = cost.fit(system.measurements.costs())
    outcomes = [entry for deletion in report["deletions"] for entry in deletion["shards"]]
    settings = system.settings
    rows = report["training"]["rows"]["train"] // (settings.sisa.shards * settings.sisa.slices)
    pictures = [
        svg_plots.time_against_workload(outcomes, fitted),
        svg_plots.boundary(
            system.site.recipe_for(0).epochs, rows, fitted, policy_of(settings), system.measurements.calibration()
        ),
        svg_plots.gaps([entry for deletion in report["deletions"] for entry in deletion["verify"]["shards"]]),
        svg_plots.lives(report["certificates"]),
    ]
    (output / "report.json").write_text(json.dumps(report, indent=1, default=str))
    (output / "report.html").write_text(render("demo.html.j2", report=report, plots=pictures))
