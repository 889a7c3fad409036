"""Training, forgetting and reading, as ratios from one run.

    python benchmarks/bench.py loop|peers|encode|cli [--json] [--out CSV]

* loop: a shard retrain over a bare PyTorch loop on the same batches (goal: at most 1.0), and ways to compute a step.
* peers: forgetting on 20,000 x 600 binary rows, two shard actors of one thread (goal: half of the seconds that
  torchunlearn takes, with `--torchunlearn CHECKOUT` in the same run).
* encode: reading a shard and checking new rows over Parquet's bare decode (goal of reading: at most 2), and encoding
  one row of a caller, for columns of every kind and 1 to 5,000 of them.
* cli: processor seconds of whole commands over a bare interpreter (goals: 0.3 s of help, 1 s of a look at requests);
  written to docs/study/cli.csv.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import benchmarks, command_line, encoding, torchunlearn
from hybridmu.core import evaluation
from hybridmu.core.kernel.model import State
from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import batch_bounds, slice_epochs
from hybridmu.core.strategies import get
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.system.system import System
from hybridmu.types import NO_KEYS

_CLI_CSV = Path(__file__).parents[1] / "docs" / "study" / command_line.FILE
_SHARDS, _SLICES, _HIDDEN, _BATCH, _LR = 8, 5, 128, 16, 0.1


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["loop", "peers", "encode", "cli"])
    parser.add_argument("--epochs", type=int, default=10, help="plain epochs; 30 makes 10 per slice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--kinds", nargs="+", default=list(encoding.KINDS), choices=list(encoding.KINDS), help="of encode"
    )
    parser.add_argument("--widths", nargs="+", type=int, default=list(encoding.WIDTHS), help="columns, of encode")
    parser.add_argument("--torchunlearn", type=Path, help="a checkout of Harry24k/machine-unlearning-pytorch")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a CSV file that figures are appended to")
    arguments = parser.parse_args()
    if arguments.which == "peers" and arguments.out and not arguments.torchunlearn:
        parser.error("peers --out wants --torchunlearn CHECKOUT too: the table has both of one run")
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "loop": lambda: bench_loop(arguments.seeds, arguments.epochs),
        "peers": lambda: bench_peers(arguments.seeds, arguments.epochs, arguments.torchunlearn),
        "encode": lambda: bench_encode(arguments.kinds, arguments.widths, arguments.seeds),
        "cli": lambda: {"cases": command_line.measure(arguments.seeds)},
    }
    result = {
        "benchmark": arguments.which,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        **run[arguments.which](),
    }
    out = arguments.out or (_CLI_CSV if arguments.which == "cli" else None)
    benchmarks.write(out, arguments.which, result["cases"])
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=1))


def bench_encode(kinds: Sequence[str], widths: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return what reading, checking and serving columns takes, kind by kind and width by width."""
    names = [(kind, width) for kind in kinds for width in widths]
    return {"cases": {f"{kind} x {width}": encoding.measure(kind, width, rounds) for kind, width in names}}


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
        rows, unseen = site.lake.rows("train", shard, NO_KEYS), site.lake.rows("train", 1, NO_KEYS)
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
                context = site.strategy_context(shard, rows)
                context = replace(context, recipe=replace(context.recipe, **way))
                started = time.perf_counter()
                states[name].append(get("retrain").run(context).state)
                seconds[name].append(time.perf_counter() - started)
            seconds["bare"].append(_bare_loop(system, rows, shard))

        def accuracy(state: State) -> float:
            model = site.fresh_model(shard)
            model.load_state_dict(state)
            return float((evaluation.logits_of(model, unseen, 2).argmax(dim=1) == unseen.y).float().mean())

        bare = seconds["bare"][1:]  # the first round warms caches up
        ratios = {
            name: statistics.median(ours / theirs for ours, theirs in zip(seconds[name][1:], bare, strict=True))
            for name in ways
        }
        return {
            "retrain_seconds": statistics.median(seconds["float32"][1:]),
            "bare_loop_seconds": statistics.median(bare),
            "cases": {
                name: {
                    "ratio": ratios[name],
                    "first_seconds": seconds[name][0],
                    "accuracy": accuracy(states[name][0]),
                    "same_bits": all(
                        torch.equal(state[key], states[name][0][key]) for state in states[name] for key in state
                    ),
                }
                for name in ways
            },
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


def bench_peers(seeds: int, epochs: int, checkout: Path | None) -> dict[str, Any]:
    """Return seconds to an applied version on a warm cluster, over Ray, two actors of one thread at a time.

    One row and one user are taken from every slice in turn, by the peer too.
    """
    theirs = _peer(checkout, seeds, epochs) if checkout else {}
    with tempfile.TemporaryDirectory() as folder, _peer_system(Path(folder), "ray", epochs) as system:
        started = time.perf_counter()
        system.train()
        training = time.perf_counter() - started
        table = pq.read_table(system.settings.data.train, columns=["id", "user"])
        ids, users = table["id"].to_pylist(), table["user"].to_pylist()
        single = [row for row, user in zip(ids, users, strict=True) if user is None]
        lookup = Lookup(system.site.lake)
        rows: dict[int, list[int]] = {s: [] for s in range(1, _SLICES + 1)}
        for row in np.random.default_rng(0).permutation(single).tolist()[:2000]:
            rows[lookup.find([("id", row)])[0][0].slice].append(row)
        people: dict[int, list[str]] = {s: [] for s in range(1, _SLICES + 1)}
        for user in sorted({user for user in users if user is not None}):
            people[lookup.find([("group", user)])[0][0].slice].append(user)
        ones = [{"ids": [found.pop()]} for _ in range(seeds) for found in rows.values()]
        left = [row for found in rows.values() for row in found]
        requests: dict[str, list[dict[str, Any]]] = {
            "one row": ones,
            "16 random rows": [{"ids": left[number * 16 : number * 16 + 16]} for number in range(seeds)],
            "one 64-row user": [{"groups": [found[0]]} for found in people.values() if found],
        }
        cases: dict[str, dict[str, float]] = {}
        for name, every in requests.items():
            made = [system.forget(**keys, strategy="retrain", wait=True) for keys in every]
            cases[name] = {
                "seconds_to_applied": statistics.mean(one["seconds_to_applied"] for one in made),
                "worker_seconds": statistics.mean(sum(e["measured_seconds"] for e in one["shards"]) for one in made),
                "requests": len(made),
                **theirs.get(name, {}),
            }
        exact = system.verify()["bitwise_equal"]
        return {
            "train_seconds_with_actor_start": training,
            "cases": {name: {**found, "bitwise_equal": exact} for name, found in cases.items()},
        }


def _peer(checkout: Path, seeds: int, epochs: int) -> dict[str, dict[str, float]]:
    """Return torchunlearn's seconds for the same requests on the same rows; its shards are its rows in their order."""
    torch.set_num_threads(1)
    x, y = _binary_rows()
    size = len(y) // _SHARDS
    of_slice = [[shard * size + s * (size // _SLICES) for shard in range(_SHARDS)] for s in range(_SLICES)]
    random = np.random.default_rng(0)
    requests: dict[str, list[list[int]]] = {
        "one row": [[starts[number % _SHARDS] + 100 + number] for number in range(seeds) for starts in of_slice],
        "16 random rows": random.permutation(len(y))[: seeds * 16].reshape(seeds, 16).tolist(),
        "one 64-row user": [list(range(starts[s], starts[s] + 64)) for s, starts in enumerate(of_slice)],
    }
    with tempfile.TemporaryDirectory() as folder:
        peer = torchunlearn.Peer(
            checkout,
            torch.from_numpy(x).float(),
            torch.from_numpy(y),
            hidden=_HIDDEN,
            shards=_SHARDS,
            epochs=slice_epochs(epochs, _SLICES),
            batch_size=_BATCH,
            lr=_LR,
            folder=Path(folder),
        )
        return torchunlearn.measure(peer, requests)


def _binary_rows() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (20_000, 600), dtype=np.uint8)
    return x, (x[:, :40].sum(axis=1) > 20).astype(np.int64)


def _peer_system(folder: Path, executor: Any, epochs: int) -> System:
    """Return a system of 20,000 x 600 binary rows, MLP 600-128-2, S=8, R=5."""
    x, y = _binary_rows()
    (rows, width), people = x.shape, 20
    users = [f"u{row // 64}" if row < people * 64 else None for row in range(rows)]
    features = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), width)
    table = pa.table({"id": np.arange(rows), "user": pa.array(users), "label": y, "bits": features})
    pq.write_table(table, folder / "train.parquet")
    return hybridmu.connect(
        {
            "data": {"train": str(folder / "train.parquet"), "test_fraction": 0, "group": "user", "label": "label"},
            "task": {"name": "mlp", "hidden": [_HIDDEN]},
            "sisa": {"shards": _SHARDS, "slices": _SLICES, "epochs": epochs, "batch_size": _BATCH},
            "optimizer": {"name": "sgd", "lr": _LR},
            # The purge of one request would run beside the next one, and be measured with it.
            "policy": {"strategy": "retrain", "retention_seconds": 3600.0},
            "cluster": {"max_parallel": 2, "cpus_per_shard": 1},
            "storage_url": str(folder / "storage"),
        },
        executor=executor,
    )


if __name__ == "__main__":
    main()
