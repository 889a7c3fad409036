"""HybridMU: distributed machine unlearning on Ray.

`__version__` is the installed version, made from the release's tag. docs/public-api.md says what is public.
Names are imported when they are first used, so that a worker process that needs only the core starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridmu.config import Settings, load
    from hybridmu.errors import HybridMUError
    from hybridmu.system.notebook import fit
    from hybridmu.system.system import System, connect
    from hybridmu.task import Task
    from hybridmu.types import ForgetRequest, ModelVersion, Plan

    __version__: str

_HOME = {
    "ForgetRequest": "types",
    "HybridMUError": "errors",
    "ModelVersion": "types",
    "Plan": "types",
    "Settings": "config",
    "System": "system.system",
    "Task": "task",
    "connect": "system.system",
    "fit": "system.notebook",
    "load": "config",
}

__all__ = [
    "ForgetRequest",
    "HybridMUError",
    "ModelVersion",
    "Plan",
    "Settings",
    "System",
    "Task",
    "connect",
    "fit",
    "load",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'hybridmu' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hybridmu.{_HOME[name]}"), name)


def _version() -> str:
    """Return the version of the installed package; of a folder that nobody installed, one that is older than any."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hybridmu")
    except PackageNotFoundError:
        return "0+unknown"
