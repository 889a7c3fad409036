"""Comparison of what made the stored checkpoints with what is installed, or would be; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from hybridmu.code_digest import installed_version, normal_name
from hybridmu.errors import StateError
from hybridmu.planning import cost
from hybridmu.planning.upgrade_impact import Package, UpgradePlan, plan_upgrade
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.purge.table_rewrite import outdated
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.ledger.measurements import Measurements


def upgrade_plan(keeper: CheckpointKeeper, measurements: Measurements, versions: Mapping[str, str]) -> UpgradePlan:
    """Return what an upgrade would cost in lost checkpoints.

    Args:
        keeper: Knows storage and its checkpoints.
        measurements: Costs.
        versions: Package → version after the upgrade; empty: compare with what this process has installed.

    Returns:
        The plan.

    Raises:
        StateError: Checkpoints were made on a GPU, and there is none here to compare with.
    """
    site, registry = keeper.site, keeper.registry
    if site.device == "cuda" and not torch.cuda.is_available():
        raise StateError(
            "this machine can't tell what a GPU's checkpoints are named by",
            expected="a GPU like those that train",
            remedy="run it on a node with one",
        )
    wanted = {normal_name(name): _full(name, version) for name, version in versions.items()}
    here = site.head(0)
    packages = tuple(
        # Asked with a version that nobody has: what changes nothing even then is not part of the key.
        Package(name, installed_version(name), version, site.head(0, {name: "0+another"}) != here)
        for name, version in wanted.items()
    )
    subs = registry.version().shards
    lost = {sub.shard for sub in subs if sub.head != site.head(sub.shard, wanted)}
    plan = plan_upgrade(keeper.facts(lambda _: True), lost, cost.fit(measurements.costs()), packages)
    return replace(plan, tables=len(outdated(site.lake)), encoders=_other_encoders(site.lake))


def _other_encoders(lake: Lake) -> tuple[str, ...]:
    return lake.derivation.others(lake.manifest.encoders)


def _full(package: str, version: str) -> str:
    """Return a version with the build that is installed, when only that was left out: 2.13.0 is 2.13.0+cpu here."""
    installed = installed_version(package)
    return installed if installed and installed.partition("+")[0] == version else version
