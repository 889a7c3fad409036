"""Predictions of canaries against real deletions: `python benchmarks/bench_calibration.py [--data adult] [--out CSV]`.

A system is trained and calibrated as by default. Then rows that were no canaries are deleted on every shard: evenly
from all classes, and from one class alone. Each deletion is compared with the exact retrain of its shard.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import benchmarks
from hybridmu.core import evaluation
from hybridmu.core.calibration.fit import estimate
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.strategies import get, unavailable
from hybridmu.planning.canary_schedule import class_excess
from hybridmu.system.system import System
from hybridmu.types import NO_KEYS, StrategyName

_UPDATES: tuple[StrategyName, ...] = ("dpus", "dpus-optimised", "dpus-newton")
_DATA = {"mnist5k": (20, 0.1, 1e-3), "adult": (10, 0.02, 1e-3)}  # epochs, rate of SGD, of AdamW
_SHARES = (0.003, 0.01, 0.03, 0.1, 0.2)
_PARTS = (0.1, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(_DATA), default="mnist5k")
    parser.add_argument("--optimizer", choices=("sgd", "momentum", "adamw"), default="sgd")
    parser.add_argument("--shards", type=int, default=8, help="how many of the eight are looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a CSV file that figures are appended to")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        system = hybridmu.connect(settings(chosen.data, chosen.optimizer, chosen.seed, folder), executor="local")
        started = time.perf_counter()
        system.train(calibrate=True)
        trained = time.perf_counter() - started
        found = [one for shard in range(chosen.shards) for one in deletions(system, shard, chosen.seed)]
        canaries = sum({(c.shard, c.cell): c.seconds for c in system.measurements.curves()}.values())
        document = {
            "data": chosen.data,
            "optimizer": chosen.optimizer,
            "seconds": {"training_and_calibration": trained, "calibration": canaries},
            "even": [line for name in _UPDATES for line in summary(found, name, "even", _SHARES)],
            "one_class": [line for name in _UPDATES for line in summary(found, name, "class", _PARTS)],
        }
        lines = {f"{chosen.data}, {chosen.optimizer}, {x['update']}, {x['size']:g}": x for x in document["even"]}
        figures = {case: {n: v for n, v in x.items() if n != "update"} for case, x in lines.items()}
        benchmarks.write(chosen.out, "calibration", figures)
        print(json.dumps(document, indent=1))


def settings(data: str, optimizer: str, seed: int, folder: str) -> dict[str, Any]:
    """Return the configuration: as in the study, S=8 and R=5."""
    epochs, rate, adam_rate = _DATA[data]
    optimizers = {
        "sgd": {"name": "sgd", "lr": rate},
        "momentum": {"name": "sgd", "lr": rate / 10, "momentum": 0.9},
        "adamw": {"name": "adamw", "lr": adam_rate, "weight_decay": 0.01},
    }
    return {
        "data": {"name": data, "validation_fraction": 0.1},
        "task": {"name": "mlp", "hidden": [128]},
        "sisa": {"shards": 8, "slices": 5, "epochs": epochs, "batch_size": 32, "seed": seed},
        "optimizer": optimizers[optimizer],
        "storage_url": folder + "/storage",
    }


def deletions(system: System, shard: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every update does in every deletion of a shard."""
    site = system.site
    rows, held_out = (site.lake.rows(split, shard, NO_KEYS) for split in ("train", "validation"))
    canaries = {key for curve in system.measurements.curves() for key in curve.keys}
    free = np.array([bytes(key) not in canaries for key in rows.ids])
    labels, random = rows.y.numpy(), np.random.default_rng([seed, shard])
    for share in _SHARES:
        for first in (1, 3):
            mask = even(rows, free, first, share, random)
            if mask.any():
                yield from measured(system, rows, held_out, "even", share, mask, shard)
    for label in np.unique(labels)[:3]:
        of_class = np.flatnonzero(labels == label)
        for part in _PARTS:
            mask = np.zeros(len(rows), np.bool_)
            mask[random.permutation(of_class)[: max(1, round(part * len(of_class)))]] = True
            yield from measured(system, rows, held_out, "class", part, mask, shard)


def even(
    rows: Rows, free: npt.NDArray[np.bool_], first: int, share: float, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return a mask of rows from slices ≥ `first`, one of them in it if possible, none of them a canary."""
    mask = np.zeros(len(rows), np.bool_)
    mask[random.permutation(np.flatnonzero(free & (rows.slice == first)))[:1]] = True
    rest = random.permutation(np.flatnonzero(free & (rows.slice >= first) & ~mask))
    mask[rest[: max(0, round(share * len(rows)) - 1)]] = True
    return mask


def measured(
    system: System, rows: Rows, held_out: Rows, kind: str, size: float, mask: npt.NDArray[np.bool_], shard: int
) -> Iterator[dict[str, Any]]:
    """Yield the gap of every update in one deletion, and what was predicted of it."""
    site, policy = system.site, system.settings.policy
    sub = system.registry.version().shards[shard]
    states = [site.blobs.get(record.blob) for record in sub.checkpoints]
    context = site.strategy_context(
        shard,
        rows.where(~mask),
        rows.where(mask),
        checkpoint=lambda slice_: states[slice_ - 1],
        current=states[-1],
        held_out=held_out,
    )

    def loss(state: State) -> float:
        model: SubModel = site.fresh_model(shard)
        model.load_state_dict(state)
        return evaluation.mean_loss(model, context.revoked, site.task)

    first = int(context.revoked.slice[0])
    clean = replace(context, checkpoint=lambda slice_: states[slice_ - 1] if slice_ < first else None)
    oracle = loss(get("retrain").run(clean).state)
    calibration, gone = system.measurements.calibration(), int(mask.sum())
    classes = len(site.lake.manifest.encoder.classes)
    held, lost = (np.bincount(y.numpy(), minlength=classes) for y in (rows.y, rows.y[mask]))
    common = {"kind": kind, "size": size, "rows": gone, "nothing": loss(states[-1]) - oracle}
    common["flagged"] = class_excess(held, lost) > policy.class_excess
    for name in _UPDATES:
        found = estimate(calibration, name, first, gone / len(rows), gone)
        if found is None:
            assert unavailable(name, system.settings.optimizer.name)
            continue
        gap = loss(get(name).run(replace(context, alpha=found.alpha)).state) - oracle
        yield {**common, "update": name, "gap": gap, "error": found.error, "bound": found.bound}


def summary(found: list[dict[str, Any]], name: str, kind: str, sizes: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return one line per size: measured gaps against what was predicted."""
    lines = []
    for size in sizes:
        group = [one for one in found if (one["update"], one["kind"], one["size"]) == (name, kind, size)]
        if not group:
            continue
        gaps = np.abs([one["gap"] for one in group])
        lines.append({
            "update": name,
            "size": size,
            "deletions": len(group),
            "median_gap": float(np.median(gaps)),
            "largest_gap": float(gaps.max()),
            "median_gap_of_doing_nothing": float(np.median(np.abs([one["nothing"] for one in group]))),
            "median_error": float(np.median([one["error"] for one in group])),
            "median_error_plus_spread": float(np.median([one["bound"] for one in group])),
            "below": float(np.mean([gap <= one["bound"] for gap, one in zip(gaps, group, strict=True)])),
            "retrained_by_the_class_rule": float(np.mean([one["flagged"] for one in group])),
        })
    return lines


if __name__ == "__main__":
    main()
