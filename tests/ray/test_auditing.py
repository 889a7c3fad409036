"""An audit on Ray: the same figures as in one process, beside a coordinator at work, and no actor is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.util import placement_group_table

import hybridmu
from tests.ray import support

QUICK = {"strategy": "dpus", "models": 4, "shards": 1, "share": 0.1}
pytestmark = pytest.mark.usefixtures("cluster")


def test_an_audit_on_ray_finds_what_one_process_finds_while_the_coordinator_works(tmp_path: Path) -> None:
    config = support.config(tmp_path, sisa={"shards": 3, "slices": 2, "epochs": 4})
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        alone = system.audit(**QUICK)
    [audited] = alone["shards"]
    other = next(shard for shard in range(3) if shard != audited["shard"])
    with hybridmu.connect(config) as system:
        asked = support.ids_in(system, other)[:1]
        name = system.forget(ids=asked, strategy="retrain", wait=True)["request_id"]  # the coordinator has its actors
        found = system.audit(**QUICK)
        assert json.dumps(found["figures"]) == json.dumps(alone["figures"]), "to the last bit"
        assert found["restarts"] == 0
        system.run(until_idle=True)  # reservations of the two do not get in each other's way
        assert system.report(name)["state"] == "PURGED"
        mine = [entry for entry in placement_group_table().values() if entry["name"].startswith("hybridmu-crew-")]
        assert all(entry["state"] == "REMOVED" for entry in mine)
        assert len(mine) >= 1
    assert support.actors("updater") == []
