"""Canaries on Ray: deleted by the actors of their shards, and again after a revocation."""

from __future__ import annotations

from pathlib import Path

import pytest

import hybridmu
from hybridmu.core.kernel.partition import digest
from hybridmu.types import CalibrationCurve
from tests.ray import support


def measured(system: hybridmu.System) -> dict[tuple[object, ...], CalibrationCurve]:
    return {(c.shard, c.cell, c.strategy): c for c in system.measurements.curves()}


@pytest.mark.usefixtures("cluster")
def test_canaries_are_measured_as_in_one_process_and_again_when_one_is_revoked(tmp_path: Path) -> None:
    policy = {"calibrate": True, "calibration_shards": 1, "calibration_shares": [0.1], "recalibration_share": 1e9}
    policy |= {"light_seconds": 0.0, "time_ratio": 1e-9}
    sisa = {"shards": 2, "slices": 2, "epochs": 2}
    configs = [support.config(tmp_path, name, sisa=sisa, policy=policy) for name in ("alone", "two")]
    with hybridmu.connect(configs[0], executor="local") as alone, hybridmu.connect(configs[1]) as system:
        for one in (alone, system):
            one.train(calibrate=True)
        before = measured(alone)
        assert len({(shard, cell) for shard, cell, _ in before}) == 2
        key = system.site.lake.key
        shard = min(shard for shard, _, _ in before)
        spoiled = {digest for (s, _, _), curve in before.items() if s == shard for digest in curve.keys}
        canary = next(row for row in support.ids_in(system, shard) if digest(key, "id", row) in spoiled)
        for one in (alone, system):
            one.forget(ids=[canary], strategy="retrain", wait=True)
            one.run(until_idle=True)
        found = [
            {name: (c.gaps, c.accuracy_changes, c.keys) for name, c in measured(one).items()} for one in (alone, system)
        ]
        assert found[0] == found[1]
        assert found[0].keys() == before.keys()
        assert not any(digest(key, "id", canary) in keys for _, _, keys in found[1].values())
