"""The environment of this process: nothing but this and `Settings` reads it."""

from __future__ import annotations

import os
from pathlib import Path

from hybridmu import faults

if _fault := os.environ.get("HYBRIDMU_FAULT"):
    faults.arm_text(_fault)


def in_ray_job() -> bool:
    """Return whether this process is the entrypoint of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_config() -> str:
    """Return the configuration file that is used when none is named."""
    return os.environ.get("HYBRIDMU_CONFIG", "examples/mnist5k.yaml")


def secret(variable: str) -> str | None:
    """Return what an environment variable holds that the configuration names as a key's source."""
    return os.environ.get(variable)


def data_home() -> Path:
    """Return the folder that holds converted built-in datasets."""
    return Path(os.environ.get("HYBRIDMU_DATA", "~/.cache/hybridmu")).expanduser()
