"""The environment of this process: nothing but this and `Settings` reads it."""

from __future__ import annotations

import os
from pathlib import Path

from hybridmu import faults
from hybridmu.config.addresses import whole_path
from hybridmu.errors import ConfigError

if _fault := os.environ.get("HYBRIDMU_FAULT"):
    faults.arm_text(_fault)


def in_ray_job() -> bool:
    """Return whether this process is the entrypoint of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_config() -> str:
    """Return the configuration file that is used when none is named."""
    return os.environ.get("HYBRIDMU_CONFIG", "examples/mnist5k.yaml")


def secret(variable: str) -> bytes | None:
    """Return what an environment variable holds that the configuration names as a key's source, byte for byte."""
    text = os.environ.get(variable)
    return None if text is None else text.encode("utf-8", "surrogateescape")  # also where it is no Unicode


def data_home() -> Path:
    """Return the folder that holds converted built-in datasets.

    Raises:
        ConfigError: HYBRIDMU_DATA names none.
    """
    named = os.environ.get("HYBRIDMU_DATA", "").strip()
    try:
        return whole_path(named or "~/.cache/hybridmu")
    except ValueError as error:
        raise ConfigError("HYBRIDMU_DATA is not a folder", got=str(error)) from None
