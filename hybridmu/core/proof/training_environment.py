"""Environment of a result: what of the machine and its libraries shapes its bits; part of every lineage head."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch


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
