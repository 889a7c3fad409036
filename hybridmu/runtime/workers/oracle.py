"""The oracle: a from-scratch training on the retained rows, in a process of its own, with no blob and no cache.

Run as `python -m hybridmu.runtime.workers.oracle`; reads one JSON document on standard input, writes one safetensors
file per shard. `train_from_scratch` starts such processes and collects what they made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from hybridmu.config import Settings
from hybridmu.core.kernel.model import State
from hybridmu.core.learners import Fit
from hybridmu.errors import HybridMUError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.types import NO_KEYS, KeySet
from hybridmu.user_code import contained, told

Watch = Callable[[int, int], None]
Seals = tuple[tuple[str, tuple[str, ...]], ...] | None
_POLL_SECONDS = 0.05


def train_from_scratch(
    settings: Settings,
    gone: Mapping[int, KeySet],
    shards: Mapping[int, int],
    processes: int,
    watch: Watch | None = None,
    seals: Seals = None,
) -> tuple[dict[int, State | None], float]:
    """Train shards from scratch without their tombstoned rows, in fresh processes.

    Args:
        settings: The configuration; only its lake is read, never its blobs.
        gone: Shard → what its tombstones name.
        shards: Which shards, and of how many generations of rows each.
        processes: How many run at once.
        watch: Called with (shards done, shards in all) while they run.
        seals: (file of the lake, seals that it may have) of what they read; None: not to be compared.

    Returns:
        (shard → final state, None when no row is left; seconds of training summed over shards).

    Raises:
        HybridMUError: A process failed; its last words are in the message.
    """
    count = max(1, min(processes, len(shards)))
    with tempfile.TemporaryDirectory(prefix="hybridmu-oracle-") as folder:
        running = [
            _start(
                settings,
                {s: (shards[s], gone.get(s, NO_KEYS)) for s in [*shards][number::count]},
                Path(folder),
                number,
                seals,
            )
            for number in range(count)
        ]
        try:
            while any(process.poll() is None for process in running):
                if watch:
                    watch(len(list(Path(folder).glob("*.seconds"))), len(shards))
                time.sleep(_POLL_SECONDS)
        finally:  # an interrupt must not leave them behind
            for process in running:
                process.kill()
                process.wait()
        for number, process in enumerate(running):
            if process.returncode:
                said = Path(folder) / f"{number}.error"
                words = said if said.exists() else Path(folder) / f"{number}.stderr"  # killed, it left no sentence
                raise HybridMUError("the oracle process failed", got=words.read_text().strip()[-1000:])
            if not all((Path(folder) / f"{shard}.seconds").exists() for shard in [*shards][number::count]):
                raise HybridMUError("the oracle process ended before its work was done", got="exit code 0")
        states: dict[int, State | None] = {}
        seconds = 0.0
        for shard in shards:
            file = Path(folder) / f"{shard}.safetensors"
            states[shard] = safetensors.torch.load_file(file) if file.exists() else None
            seconds += float((Path(folder) / f"{shard}.seconds").read_text())
    return states, seconds


def seals_of(site: Site, shards: Sequence[int]) -> Seals:
    """Return the seals that the manifest and the training tables of shards may have now, once they are compared.

    Raises:
        StorageError: A table is damaged, or not the one that was recorded: said here, before a process is started.
    """
    names = [name for shard in shards for name in site.lake.files("train", shard)]
    site.lake.check(*names)
    return site.lake.recorded([MANIFEST, *names])


def _start(
    settings: Settings,
    work: Mapping[int, tuple[int, KeySet]],
    folder: Path,
    number: int,
    seals: Seals,
) -> subprocess.Popen[str]:
    document = {
        "settings": settings.model_dump(mode="json"),
        "output": str(folder),
        "path": sys.path,  # a task may be found by what this process added
        "error": f"{number}.error",
        "seals": seals,
        "shards": {
            str(shard): {"generations": generations, "gone": sorted([kind, key.hex()] for kind, key in keys)}
            for shard, (generations, keys) in work.items()
        },
    }
    with (folder / f"{number}.stderr").open("w") as errors:
        command = [sys.executable, "-m", "hybridmu.runtime.workers.oracle"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(document))
    process.stdin.close()
    return process


def main() -> None:
    """Train the shards that standard input names; write the weights and the seconds of each, or what went wrong."""
    document: dict[str, Any] = json.load(sys.stdin)
    sys.path[:] = document["path"]
    try:
        with contained():
            train_shards(document)
    except Exception as error:
        (Path(document["output"]) / document["error"]).write_text(told(error))
        raise


def train_shards(document: dict[str, Any]) -> None:
    """Train shards in this process.

    Args:
        document: `settings`, `seals` and `shards` to train, and the folder `output` of their weights and seconds.
    """
    site = Site(Settings.model_validate(document["settings"]))
    site.configure_torch()
    if document["seals"] is not None:
        known = {name: frozenset(found) for name, found in document["seals"]}
        site.lake.compare_with(lambda _: known)
    output = Path(document["output"])
    for name, asked in document["shards"].items():
        shard, generations = int(name), asked["generations"]
        recipe = site.recipe_for(shard, generations)
        gone = KeySet((kind, bytes.fromhex(key)) for kind, key in asked["gone"])
        live = site.lake.rows("train", shard, gone, generations=generations).to(site.device)
        started = time.perf_counter()
        if len(live):
            job = Fit(site.fresh_model(shard), live, recipe, site.task, shard, lambda _: None, lambda *_: None)
            safetensors.torch.save_file(site.learner.fit(job).state, output / f"{name}.safetensors")
        (output / f"{name}.seconds").write_text(str(time.perf_counter() - started))


if __name__ == "__main__":
    main()
