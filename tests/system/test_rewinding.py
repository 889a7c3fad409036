"""`rewind` and `dpus-newton` through the whole system: what they make is what the strategies make, and exact later."""

from __future__ import annotations

import pytest

from hybridmu.core.audit import measures
from hybridmu.core.kernel.partition import digest
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.strategies import Context, get
from tests.scenes.small_system import scene

SETTINGS = {"repair": "deadline", "finetune_epochs": 1.0}  # no repair begins before it must


def made(it, strategy, revoked, gone, current):
    """Return what a strategy gives on shard 0, from the lake and the first version's checkpoints."""
    site = it.system.site
    rows = site.lake.rows("train", 0, set())
    first = it.system.registry.version(1).shards[0]

    def mask(ids):
        return carries(rows.ids, rows.groups, {("id", digest(site.lake.key, "id", row)) for row in ids})

    return (
        get(strategy)
        .run(
            Context(
                shard=0,
                task=site.task,
                recipe=site.recipe_for(0),
                live=rows.where(~mask(gone)),
                revoked=rows.where(mask(revoked)),
                fresh_model=lambda: site.fresh_model(0),
                checkpoint=lambda slice_: site.blobs.get(first.checkpoints[slice_ - 1].blob),
                save=lambda *_: None,
                current=site.blobs.get(current),
                finetune_epochs=1.0,
            )
        )
        .state
    )


def live(it):
    return it.system.registry.version().shards[0]


@pytest.mark.parametrize("before", ["dpus", "rewind"])
def test_a_rewind_goes_back_before_every_open_deletion(tmp_path, before):
    with scene(tmp_path, **SETTINGS) as it:
        early, late = sorted(it.rows[0][:8])[:4], sorted(it.rows[0][:8])[4:6]
        it.system.wait(it.forget(*early, strategy=before))
        it.system.wait(it.forget(*late, strategy="rewind"))
        sub = live(it)
        assert not sub.exact
        wanted = made(it, "rewind", [*early, *late], [*early, *late], sub.blob)
        assert not measures.differing_tensors(it.system.site.blobs.get(sub.blob), wanted)


def test_a_damped_update_removes_only_what_the_live_weights_hold(tmp_path):
    with scene(tmp_path, **SETTINGS) as it:
        early, late = it.rows[0][:2], it.rows[0][2:5]
        it.system.wait(it.forget(*early, strategy="dpus-newton"))
        between = live(it).blob
        it.system.wait(it.forget(*late, strategy="dpus-newton"))
        wanted = made(it, "dpus-newton", late, [*early, *late], between)
        assert not measures.differing_tensors(it.system.site.blobs.get(live(it).blob), wanted)


@pytest.mark.parametrize("strategy", ["rewind", "dpus-newton"])
def test_what_they_change_is_marked_and_made_exact_by_itself(tmp_path, strategy):
    with scene(tmp_path, finetune_epochs=1.0) as it:
        gone = it.rows[0][:3]
        request = it.forget(*gone, strategy=strategy)
        it.system.wait(request)
        report = it.system.report(request)
        assert [row["strategy"] for row in report["shards"]] == [strategy]
        assert report["owes_exact_repair"] == [0]
        it.system.run(until_idle=True)
        assert live(it).exact
        it.assert_exact_without(gone)
