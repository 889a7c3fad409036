"""The oracle: a from-scratch training on the retained rows, in a process of its own, with no blob and no cache.

Run as `python -m hybridmu.runtime.oracle`; reads one JSON document on standard input, writes one safetensors file
per shard. `train_from_scratch` starts such processes and collects what they made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from hybridmu.config import Settings
from hybridmu.core.model import State, state_of
from hybridmu.core.training import train_slice
from hybridmu.errors import HybridMUError
from hybridmu.runtime.site import Site


def train_from_scratch(
    settings: Settings, gone: Mapping[int, set[tuple[str, bytes]]], shards: Sequence[int], processes: int
) -> tuple[dict[int, State | None], float]:
    """Train shards from scratch without their tombstoned rows, in fresh processes.

    Args:
        settings: The configuration; only its lake is read, never its blobs.
        gone: Shard → (kind, digest) of every tombstone.
        shards: Which shards.
        processes: How many run at once.

    Returns:
        (shard → final state, None when no row is left; seconds of training summed over shards).

    Raises:
        HybridMUError: A process failed; its last words are in the message.
    """
    states: dict[int, State | None] = {}
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="hybridmu-oracle-") as folder:
        running = []
        for number in range(max(1, min(processes, len(shards)))):
            mine = list(shards)[number :: max(1, min(processes, len(shards)))]
            document = {
                "settings": settings.model_dump(mode="json"),
                "output": folder,
                "shards": {str(s): sorted([kind, key.hex()] for kind, key in gone.get(s, set())) for s in mine},
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "hybridmu.runtime.oracle"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(document))
            process.stdin.close()
            process.stdin = None
            running.append(process)
        for process in running:
            output, error = process.communicate()
            if process.returncode:
                raise HybridMUError("the oracle process failed", got=error.strip()[-500:])
            for shard, took in json.loads(output).items():
                file = Path(folder) / f"{shard}.safetensors"
                states[int(shard)] = safetensors.torch.load_file(file) if file.exists() else None
                seconds += took
    return states, seconds


def main() -> None:
    """Train the shards that standard input names and print the seconds of each as JSON."""
    document: dict[str, Any] = json.load(sys.stdin)
    site = Site(Settings.model_validate(document["settings"]))
    site.configure_torch()
    seconds = {}
    for name, keys in document["shards"].items():
        shard = int(name)
        live = site.lake.rows("train", shard, {(kind, bytes.fromhex(key)) for kind, key in keys}).to(site.device)
        started = time.perf_counter()
        if len(live):
            model = site.fresh_model(shard)
            for slice_ in range(1, len(site.recipe.epochs) + 1):
                train_slice(model, live, slice_, site.recipe, site.task, shard)
            safetensors.torch.save_file(state_of(model), os.path.join(document["output"], f"{name}.safetensors"))
        seconds[name] = time.perf_counter() - started
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    main()
