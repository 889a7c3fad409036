"""The environment of this process: nothing but this and `Settings` reads it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hybridmu import faults
from hybridmu.config.addresses import whole_path
from hybridmu.errors import ConfigError

_ANSWER_SECONDS = 0.5

if _fault := os.environ.get("HYBRIDMU_FAULT"):
    faults.arm_text(_fault)


def in_ray_job() -> bool:
    """Return whether this process is the entrypoint of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def running_cluster() -> str | None:
    """Return the address of a Ray cluster that runs on this machine, or that RAY_ADDRESS names; None without one.

    Ray leaves the file behind when a cluster dies, so its head has to answer.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        address = noted.read_text().strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS):
            return address
    except (OSError, ValueError):
        return None


def default_config() -> str:
    """Return the configuration file that is used when none is named."""
    return os.environ.get("HYBRIDMU_CONFIG", "examples/mnist5k.yaml")


def config_of_commands() -> str:
    """Return the configuration file of a command that names none."""
    return os.environ.get("HYBRIDMU_CONFIG", "hybridmu.yaml")


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
