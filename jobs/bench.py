"""Benchmarks, printed as ratios from one run: `python jobs/bench.py loop|peers|dpus [--json]`.

* loop: a shard retrain over a bare PyTorch loop on the same batches (goal: at most 1.0), and ways to compute a step.
* peers: forgetting on 20,000 x 600 binary rows, two shard actors of one thread (goal: half of torchunlearn's figures).
* dpus: the optimised update against exact retraining on MNIST-5k or MNIST (goal: 4 times faster, gap below 0.05).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

import hybridmu
from hybridmu.core import audit
from hybridmu.core.aggregate import aggregate
from hybridmu.core.calibration import estimate
from hybridmu.core.model import State
from hybridmu.core.partition import epoch_order
from hybridmu.core.rows import Rows
from hybridmu.core.strategies import Context, get
from hybridmu.core.training import batch_bounds
from hybridmu.runtime.verify import test_rows
from hybridmu.store.lake.lookup import Lookup
from hybridmu.system import System

_SHARES = (0.01, 0.05, 0.1)
PEER_SECONDS = {"one row": 0.79, "16 random rows": 5.7, "one 64-row user": 0.69}  # torchunlearn, as published by us


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["loop", "peers", "dpus"])
    parser.add_argument("--data", default="mnist5k", help="dpus: mnist5k or mnist")
    parser.add_argument("--epochs", type=int, default=10, help="loop, peers: plain epochs; 30 makes 10 per slice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "loop": lambda: bench_loop(arguments.seeds, arguments.epochs),
        "peers": lambda: bench_peers(arguments.seeds, arguments.epochs),
        "dpus": lambda: bench_dpus(arguments.data, arguments.seeds),
    }
    result = {
        "benchmark": arguments.which,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        **run[arguments.which](),
    }
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=1))


# ---------------------------------------------------------------------- loop


def bench_loop(rounds: int, epochs: int) -> dict[str, Any]:
    """Return retrain seconds over bare-loop seconds, taken in turns on the same rows, batches and threads.

    Every way to compute a step is beside it, with its accuracy on rows of another shard and whether all rounds gave the
    same bits.
    """
    with tempfile.TemporaryDirectory() as folder:
        system = _peer_system(Path(folder), "local", epochs)
        system.train()
        site, shard = system.site, 0
        rows, unseen = site.lake.rows("train", shard, set()), site.lake.rows("train", 1, set())
        site.configure_torch()
        ways: dict[str, dict[str, Any]] = {
            "float32": {},
            "bfloat16": {"precision": "bfloat16"},
            "compiled": {"compiled": True},
        }
        seconds: dict[str, list[float]] = {name: [] for name in ("bare", *ways)}
        states: dict[str, list[State]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, way in ways.items():
                context = _context(system, shard, rows, rows.where(np.zeros(len(rows), bool)), lambda _: None)
                context = replace(context, recipe=replace(context.recipe, **way))
                started = time.perf_counter()
                states[name].append(get("retrain").run(context).state)
                seconds[name].append(time.perf_counter() - started)
            seconds["bare"].append(_bare_loop(system, rows, shard))

        def accuracy(state: State) -> float:
            model = site.fresh_model(shard)
            model.load_state_dict(state)
            return float((audit.logits_of(model, unseen, 2).argmax(dim=1) == unseen.y).float().mean())

        bare = seconds["bare"][1:]  # the first round warms caches up
        ratios = {
            name: statistics.median(ours / theirs for ours, theirs in zip(seconds[name][1:], bare, strict=True))
            for name in ways
        }
        return {
            "retrain_seconds": statistics.median(seconds["float32"][1:]),
            "bare_loop_seconds": statistics.median(bare),
            "ratio": ratios["float32"],
            "goal": 1.0,
            "ways": [
                {
                    "way": name,
                    "ratio": ratios[name],
                    "first_seconds": seconds[name][0],
                    "accuracy_on_unseen_rows": accuracy(states[name][0]),
                    "same_bits_every_time": all(
                        torch.equal(state[key], states[name][0][key]) for state in states[name] for key in state
                    ),
                }
                for name in ways
            ],
        }


def _bare_loop(system: System, rows: Rows, shard: int) -> float:
    """Return the seconds of the loop that a PyTorch user would write: module, cross entropy, torch.optim.SGD."""
    recipe = system.site.recipe_for(shard)
    model = system.site.fresh_model(shard)
    orders = {
        (s, e): torch.from_numpy(epoch_order(rows.words[: rows.upto(s)], recipe.seed, shard, s, e))
        for s, epochs in enumerate(recipe.epochs, start=1)
        for e in range(epochs)
    }
    started = time.perf_counter()
    for slice_, epochs in enumerate(recipe.epochs, start=1):
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
        bounds = batch_bounds(rows.upto(slice_), recipe.batch_size)
        total, done = epochs * len(bounds), 0
        for epoch in range(epochs):
            order = orders[slice_, epoch]
            for start, stop in bounds:
                batch = order[start:stop]
                optimizer.param_groups[0]["lr"] = recipe.lr * (1 - done / total)
                optimizer.zero_grad()
                functional.cross_entropy(model(rows.x[batch]), rows.y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                done += 1
    return time.perf_counter() - started


# ---------------------------------------------------------------------- peers


def bench_peers(seeds: int, epochs: int) -> dict[str, Any]:
    """Return seconds to an applied version on a warm cluster, over Ray, two actors of one thread at a time."""
    with tempfile.TemporaryDirectory() as folder, _peer_system(Path(folder), "ray", epochs) as system:
        started = time.perf_counter()
        system.train()
        training = time.perf_counter() - started
        table = pq.read_table(system.settings.data.train, columns=["id", "user"])
        ids, users = table["id"].to_pylist(), table["user"].to_pylist()
        single = [row for row, user in zip(ids, users, strict=True) if user is None]
        random = np.random.default_rng(0)
        by_slice = {s: [] for s in range(1, 6)}  # type: dict[int, list[int]]
        for row in random.permutation(single).tolist()[:2000]:
            by_slice[Lookup(system.site.lake).find([("id", row)])[0][0].slice].append(row)
        seconds: dict[str, list[float]] = {name: [] for name in PEER_SECONDS}
        worker: dict[str, list[float]] = {name: [] for name in PEER_SECONDS}

        def forget(name: str, **keys: Any) -> None:
            found = system.forget(**keys, strategy="retrain", wait=True)
            seconds[name].append(found["seconds_to_applied"])
            worker[name].append(sum(entry["measured_seconds"] for entry in found["shards"]))

        for _ in range(seeds):
            for slice_ in range(1, 6):
                forget("one row", ids=[by_slice[slice_].pop()])
        left = [row for rows in by_slice.values() for row in rows]
        for number in range(seeds):
            forget("16 random rows", ids=left[number * 16 : number * 16 + 16])
        for number in range(max(seeds, 5)):
            forget("one 64-row user", groups=[f"u{number}"])
        proof = system.verify()
        return {
            "train_seconds_with_actor_start": training,
            "bitwise_equal_after_all": proof["bitwise_equal"],
            "figures": [
                {
                    "what": name,
                    "mean_seconds_to_applied": statistics.mean(seconds[name]),
                    "mean_worker_seconds": statistics.mean(worker[name]),
                    "goal_seconds": peer / 2,
                    "ratio_to_torchunlearn": statistics.mean(seconds[name]) / peer,
                    "requests": len(seconds[name]),
                }
                for name, peer in PEER_SECONDS.items()
            ],
        }


def _peer_system(folder: Path, executor: Any, epochs: int) -> System:
    """Return the system of the published comparison: 20,000 x 600 binary rows, MLP 600-128-2, S=8, R=5, 10 epochs."""
    random = np.random.default_rng(0)
    rows, width, people = 20_000, 600, 20
    x = random.integers(0, 2, (rows, width), dtype=np.uint8)
    y = (x[:, :40].sum(axis=1) > 20).astype(np.int64)
    users = [f"u{row // 64}" if row < people * 64 else None for row in range(rows)]
    features = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), width)
    table = pa.table({"id": np.arange(rows), "user": pa.array(users), "label": y, "bits": features})
    pq.write_table(table, folder / "train.parquet")
    return hybridmu.connect(
        {
            "data": {"train": str(folder / "train.parquet"), "group": "user", "label": "label"},
            "task": {"name": "mlp", "hidden": [128]},
            "sisa": {"shards": 8, "slices": 5, "epochs": epochs, "batch_size": 16},
            "optimizer": {"name": "sgd", "lr": 0.1},
            # The purge of one request would run beside the next one, and be measured with it.
            "policy": {"strategy": "retrain", "retention_seconds": 3600.0},
            "cluster": {"max_parallel": 2, "cpus_per_shard": 1},
            "storage_url": str(folder / "storage"),
        },
        executor=executor,
    )


# ---------------------------------------------------------------------- dpus


def bench_dpus(data: str, seeds: int) -> dict[str, Any]:
    """Return device-seconds, forget-loss gap and accuracy of the optimised update against the exact retrain."""
    figures: list[dict[str, Any]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            system = hybridmu.connect(
                {
                    "data": {"name": data, "validation_fraction": 0.1},
                    "task": {"name": "mlp", "hidden": [128]},
                    "sisa": {"shards": 8, "slices": 5, "epochs": 20, "batch_size": 32, "seed": seed},
                    "storage_url": folder + "/storage",
                },
                executor="local",
            )
            system.train()
            figures.extend(
                {"seed": seed, "share": share, **_compare(system, share, seed)} for share in (0.01, 0.05, 0.1)
            )
    summary = []
    for share in _SHARES:
        group = [f for f in figures if f["share"] == share]
        names = ("speedup", "forget_loss_gap", "gap_of_doing_nothing", "accuracy_minus_oracle")
        summary.append({"share": share, **{name: statistics.mean(f[name] for f in group) for name in names}})
        summary[-1]["worst_gap"] = max((f["forget_loss_gap"] for f in group), key=abs)
        summary[-1]["worst_accuracy_minus_oracle"] = min(f["accuracy_minus_oracle"] for f in group)
    return {"data": data, "seeds": seeds, "goals": {"speedup": 4, "gap": 0.05, "accuracy": -0.005}, "summary": summary}


def _compare(system: System, share: float, seed: int) -> dict[str, float]:
    site, settings = system.site, system.settings
    site.configure_torch()
    random = np.random.default_rng(seed)
    test = test_rows(site, {})
    classes = len(site.lake.manifest.encoder.classes)
    seconds = {"retrain": 0.0, "dpus-optimised": 0.0}
    gaps, idle, weights = [], [], []
    ours, oracles = [], []
    for sub in system.registry.version().shards:
        rows = site.lake.rows("train", sub.shard, set())
        mask = np.zeros(len(rows), dtype=np.bool_)
        mask[random.choice(len(rows), max(1, round(share * len(rows))), replace=False)] = True
        revoked = rows.where(mask)
        first = int(revoked.slice[0])
        fitted, gone = system.measurements.calibration(), len(revoked)
        canaries = estimate(fitted, "dpus-optimised", first, gone / len(rows), gone)
        assert canaries is not None
        assert sub.blob is not None
        blobs = [record.blob for record in sub.checkpoints]
        current = site.blobs.get(sub.blob)
        context = replace(
            _context(system, sub.shard, rows.where(~mask), revoked, _checkpoints(system, blobs)),
            current=current,
            held_out=site.lake.rows("validation", sub.shard, set()),
            alpha=canaries.alpha,
            finetune_epochs=settings.policy.finetune_epochs,
            finetune_rate=settings.policy.finetune_lr * settings.optimizer.lr,
        )
        clean = replace(context, checkpoint=_before(first, context.checkpoint))
        models = {}
        for name, run in (("retrain", clean), ("dpus-optimised", context)):
            started = time.perf_counter()
            result = get(name).run(run)
            seconds[name] += time.perf_counter() - started
            models[name] = site.fresh_model(sub.shard)
            models[name].load_state_dict(result.state)
        before = site.load_model(sub.shard, sub.blob)
        gaps.append(audit.forget_loss_gap(models["dpus-optimised"], models["retrain"], revoked, site.task))
        idle.append(audit.forget_loss_gap(before, models["retrain"], revoked, site.task))
        weights.append(len(revoked))
        ours.append(audit.logits_of(models["dpus-optimised"], test, classes))
        oracles.append(audit.logits_of(models["retrain"], test, classes))

    def accuracy(logits: list[torch.Tensor]) -> float:
        return float((aggregate(torch.stack(logits), "mean").argmax(dim=1) == test.y).float().mean())

    return {
        "speedup": seconds["retrain"] / seconds["dpus-optimised"],
        "forget_loss_gap": float(np.average(gaps, weights=weights)),
        "gap_of_doing_nothing": float(np.average(idle, weights=weights)),
        "accuracy_minus_oracle": accuracy(ours) - accuracy(oracles),
    }


def _checkpoints(system: System, blobs: list[str]) -> Callable[[int], Any]:
    return lambda slice_: system.site.blobs.get(blobs[slice_ - 1])


def _before(first: int, checkpoint: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return the same checkpoints without those that saw slice `first`."""
    return lambda slice_: checkpoint(slice_) if slice_ < first else None


def _context(system: System, shard: int, live: Rows, revoked: Rows, checkpoint: Callable[[int], Any]) -> Context:
    site = system.site
    return Context(
        shard=shard,
        task=site.task,
        recipe=site.recipe_for(shard),
        live=live,
        revoked=revoked,
        fresh_model=lambda: site.fresh_model(shard),
        checkpoint=checkpoint,
        save=lambda *_: None,
    )


if __name__ == "__main__":
    main()
