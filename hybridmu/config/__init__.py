"""The one frozen settings tree, read from YAML. The only reader of the environment.

Environment variables:
    HYBRIDMU_STORAGE_URL: replaces `storage_url`.
    HYBRIDMU_DATABASE_URL: replaces `database_url`.
    HYBRIDMU_CONFIG: configuration file of commands and of `serve run` when none is named.
    HYBRIDMU_FAULT: `POINT:HIT:ACTION`, armed in every process that inherits it; for tests (`hybridmu.faults`).
    RAY_ADDRESS, RAY_TMPDIR: as Ray reads them, where a cluster is looked for.
    HYBRIDMU_DATA: folder of converted built-in datasets (default `~/.cache/hybridmu`).
    Others may be named by `data.partition_key`, `keys.signing`, `keys.guard` and `webhooks.NAME.secret` as `env:NAME`.
"""

from hybridmu.config.data import DataSettings
from hybridmu.config.deployment import LogSettings
from hybridmu.config.environment import (
    config_of_commands,
    data_home,
    default_config,
    in_ray_job,
    running_cluster,
    secret,
)
from hybridmu.config.fides import FidesSettings
from hybridmu.config.left_out import completed, left_out
from hybridmu.config.policy import PolicySettings
from hybridmu.config.settings import Settings, load
from hybridmu.config.training_settings import CheckpointSettings
from hybridmu.config.webhooks import WebhookSettings

__all__ = [
    "CheckpointSettings",
    "DataSettings",
    "FidesSettings",
    "LogSettings",
    "PolicySettings",
    "Settings",
    "WebhookSettings",
    "completed",
    "config_of_commands",
    "data_home",
    "default_config",
    "in_ray_job",
    "left_out",
    "load",
    "running_cluster",
    "secret",
]
