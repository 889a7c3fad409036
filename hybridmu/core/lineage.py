"""What a checkpoint was made of, as a chain of hashes.

key_i = H(key_{i−1}, e_i, ids and contents of the live rows of slice i); key_0 = H(everything static: schedule,
optimizer, seed, shard, code, library versions, dtype, device kind, CPU capability, thread count). A deletion is
a cache miss: no key of a slice that held the row is the same afterwards.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hybridmu.core.rows import Rows
from hybridmu.core.training import Recipe


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return what of the machine and its libraries shapes the bits of a result."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "dtype": "float32",
        "device": device,
        "threads": threads,
        "world_size": 1,
    }
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
    return found


def lineage_keys(static: Mapping[str, Any], rows: Rows, recipe: Recipe, shard: int) -> tuple[str, ...]:
    """Return the key of every slice's checkpoint.

    Args:
        static: JSON-able description of what is the same for all slices.
        rows: Live rows of the shard.
        recipe: Hyper-parameters.
        shard: Shard number.

    Returns:
        One hex key per slice, each covering slices ≤ its own.
    """
    shaping = {name: value for name, value in vars(recipe).items() if name != "epochs"}
    head = json.dumps({"static": static, "recipe": shaping, "shard": shard}, sort_keys=True)
    key = hashlib.blake2b(head.encode(), digest_size=24).digest()
    keys = []
    start = 0
    for slice_, epochs in enumerate(recipe.epochs, start=1):
        stop = rows.upto(slice_)
        link = hashlib.blake2b(key, digest_size=24)
        link.update(f"slice {slice_} epochs {epochs} rows {stop - start}".encode())
        link.update(np.concatenate([rows.ids[start:stop], rows.content[start:stop]], axis=1).tobytes())
        key, start = link.digest(), stop
        keys.append(key.hex())
    return tuple(keys)
