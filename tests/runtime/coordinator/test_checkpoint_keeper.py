"""The budget of checkpoints: what goes, what that costs, and that exactness does not care."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.config import CheckpointSettings
from hybridmu.core.learners.workload import count
from hybridmu.errors import StateError
from hybridmu.planning.checkpoint_retention import EvictionPlan, ShardCheckpoints, _there, evict, expected
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.types import Calibration, ShardStats
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


@st.composite
def shards(draw, most=6, count=1, sizes=(100,)):
    slices = draw(st.integers(1, most))
    epochs = tuple(draw(st.lists(st.integers(1, 4), min_size=slices, max_size=slices)))
    made = []
    for shard in range(count):
        rows = tuple(draw(st.lists(st.integers(0, 30), min_size=slices, max_size=slices)))
        existing = tuple(draw(st.lists(st.booleans(), min_size=slices, max_size=slices)))
        size = draw(st.sampled_from(sizes))
        made.append(ShardCheckpoints(shard, epochs, rows, existing, size, draw(st.integers(0, slices))))
    return made


def mean_cost(all_shards, kept) -> float:
    """Expected cost by the planner's own count, one deletion at a time."""
    total = live = 0
    for shard, held in zip(all_shards, kept, strict=True):
        slices = range(1, len(shard.rows) + 1)
        live += sum(shard.rows)
        for touched, rows in zip(slices, shard.rows, strict=True):
            if rows:
                revoked = tuple(int(i == touched) for i in slices)
                clean = tuple(i in held and i <= shard.clean for i in slices)
                total += rows * count(ShardStats(0, shard.epochs, shard.rows, revoked, revoked, clean)).retrain_visits
    return total / max(1, live)


def summed_files(shard, held, touched: int) -> float:
    """Checkpoints that the planner counts for deleting each row of one slice, summed."""
    slices = range(1, len(shard.rows) + 1)
    revoked = tuple(int(i == touched) for i in slices)
    clean = tuple(i in held and i <= shard.clean for i in slices)
    stats = ShardStats(0, shard.epochs, shard.rows, revoked, revoked, clean)
    per_file = CostModel({"retrain": Coefficients(per_visit=0.0, per_checkpoint=1.0)})
    plan = make_plan([stats], per_file, Policy(), Pools(1, 1), Calibration(), "retrain")
    return shard.rows[touched - 1] * plan.makespan_seconds


def subsets(items):
    return [set(found) for size in range(len(items) + 1) for found in combinations(sorted(items), size)]


def taken(all_shards, kept) -> int:
    return sum((len(k) + s.existing[-1]) * s.bytes_each for s, k in zip(all_shards, kept, strict=True))


def kept_by(plan: EvictionPlan, all_shards):
    return [_there(s) - {i for shard, i in plan.evicted if shard == s.shard} for s in all_shards]


@given(shards(), st.data())
def test_expected_cost_is_the_planners_count(one, data):
    held = data.draw(st.sets(st.integers(1, len(one[0].rows))))
    visits, files = expected(one[0], held)
    assert visits / max(1, sum(one[0].rows)) == pytest.approx(mean_cost(one, [held]))
    assert files == sum(summed_files(one[0], held, touched) for touched in range(1, len(one[0].rows) + 1))


# What the greedy order was found to lose against the best of all subsets, at most.
BOUND = 1.1


@given(shards(most=7), st.integers(0, 900))
def test_one_shard_is_near_the_optimum(one, budget):
    plan = evict(one, budget)
    kept = kept_by(plan, one)
    assert plan.visits_after == pytest.approx(mean_cost(one, kept))
    assert plan.bytes_after == taken(one, kept)
    fitting = [held for held in subsets(_there(one[0])) if taken(one, [held]) <= budget]
    if not fitting:
        assert kept == [set()]
        assert not plan.fits
        assert "budget is not kept" in plan.explain()
    else:
        assert plan.fits
        assert plan.visits_after <= BOUND * min(mean_cost(one, [held]) for held in fitting)


def test_of_many_cases_few_are_not_the_optimum():
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(300):
        slices = int(random.integers(2, 7))
        epochs, rows = random.integers(1, 5, slices).tolist(), random.integers(0, 31, slices).tolist()
        one = [ShardCheckpoints(0, tuple(epochs), tuple(rows), (True,) * slices, 1, slices)]
        for size in range(slices - 1):
            best = min(expected(one[0], set(held))[0] for held in combinations(range(1, slices), size))
            if best:
                ratios.append(evict(one, size + 1).visits_after * sum(rows) / best)
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) <= BOUND
    assert np.quantile(ratios, 0.99) <= 1.01


@given(shards(most=4, count=3), st.integers(0, 1300))
def test_several_shards_are_near_the_optimum_together(several, budget):
    plan = evict(several, budget)
    ways = [kept for kept in product(*(subsets(_there(s)) for s in several)) if taken(several, kept) <= budget]
    assert plan.fits == bool(ways)
    if ways:
        assert plan.visits_after <= BOUND * min(mean_cost(several, kept) for kept in ways) + 1e-9


@given(shards(most=3, count=3, sizes=(60, 100, 170)), st.integers(0, 1500))
def test_other_sizes_lose_at_most_one_checkpoint_more(several, budget):
    plan = evict(several, budget)
    ways = [kept for kept in product(*(subsets(_there(s)) for s in several)) if taken(several, kept) <= budget]
    assert plan.fits == bool(ways)
    smaller = [kept for kept in ways if taken(several, kept) <= budget - 170]
    if smaller:
        assert plan.visits_after <= BOUND * min(mean_cost(several, kept) for kept in smaller) + 1e-9


@given(shards(most=5, count=4), st.lists(st.integers(0, 2100), min_size=2, max_size=6))
def test_a_smaller_budget_never_costs_less(several, budgets):
    plans = [evict(several, budget) for budget in sorted(budgets)]
    costs = [plan.visits_after for plan in plans]
    assert all(a >= b - 1e-9 * max(costs) for a, b in pairwise(costs))
    assert all(plan.visits_after >= plan.visits_before * (1 - 1e-9) for plan in plans)
    assert all(plan.fits or not any(map(bool, kept_by(plan, several))) for plan in plans)


@given(shards(most=5, count=3), st.integers(0, 1500))
def test_live_and_busy_checkpoints_stay(several, budget):
    several[1] = replace(several[1], busy=True)
    plan = evict(several, budget)
    assert all(shard != 1 and slice_ < len(several[0].rows) for shard, slice_ in plan.evicted)
    assert plan.busy == (1,)
    if not plan.fits:
        assert "1 are at work" in plan.explain()
    if several[0].existing[-1]:
        assert plan.bytes_after >= several[0].bytes_each


def test_what_no_retrain_can_use_goes_first():
    shard = ShardCheckpoints(0, (2,) * 5, (10,) * 5, (True,) * 5, 100, clean=2)
    assert evict([shard], 300).evicted == ((0, 3), (0, 4))
    assert evict([shard], 300).visits_after == evict([shard], 300).visits_before
    assert len(evict([shard], 299).evicted) == 3


def test_the_plan_explains_itself():
    rows = [ShardCheckpoints(s, (2, 2, 2), (10, 10, 10), (True,) * 3, 2048, clean=3) for s in range(2)]
    plan = evict(rows, 5 * 2048)
    assert len(plan.evicted) == 1
    assert plan.explain() == (
        "6 checkpoint(s) take 12.0 KiB; the budget is 10.0 KiB.\n"
        "1 of them go, 10.0 KiB are left: shard 0 slice 1.\n"
        "The next deletion of one row is then expected to retrain 93 sample visits instead of 89 (+3.7%).\n"
        "Shard(s) 0 lose the approximate update, which needs every checkpoint."
    )
    assert plan.lost_updates == (0,)
    assert evict(rows, None).evicted == ()
    assert "no budget is set" in evict(rows, None).explain()
    assert evict([], 0).fits


# ---------------------------------------------------------------------- on a real system


@pytest.fixture
def trained(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 90, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=5, epochs=5, batch=4, optimizer=SGD, groups=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    return config, table, ids


def budgeted(config, slots: int):
    """The configuration with room for so many checkpoints of this model."""
    with hybridmu.connect(config, executor="local") as system:
        size = max(system.site.blobs.sizes(0).values())
    return {**config, "checkpoints": {"budget_bytes": slots * size}}


def existing(system, shard: int) -> list[int]:
    sub = system.registry.version().shards[shard]
    return [r.slice for r in sub.checkpoints if system.site.blobs.find(shard, r.lineage_key)]


def by_place(system, ids):
    found, _ = Lookup(system.site.lake).find([("id", row) for row in ids])
    places = {}
    for row, key in zip(ids, found, strict=True):
        places.setdefault((key.shard, key.slice), []).append(row)
    return places


def test_a_plan_changes_nothing_and_an_applied_one_keeps_the_budget(trained):
    config = budgeted(trained[0], 5)
    with hybridmu.connect(config, executor="local") as system:
        files = system.site.storage.list()
        plan = system.checkpoints()
        assert plan["applied"] is False
        assert system.site.storage.list("blobs") == [f for f in files if f.name.startswith("blobs/")]
        assert len(plan["evicted"]) == 5
        assert system.checkpoints(apply=True)["bytes_after"] == plan["bytes_after"] <= plan["budget"]
        assert all(existing(system, shard)[-1] == 5 for shard in range(2))
        assert sum(f.size for f in system.site.storage.list("blobs")) == plan["bytes_after"]
        again = system.checkpoints()
        assert again["evicted"] == ()
        assert again["visits_before"] == plan["visits_after"] > plan["visits_before"]
        assert system.status()["version"] == 1


@pytest.mark.slow
def test_a_retrain_after_an_eviction_is_exact_and_was_counted_right(trained):
    base, table, ids = trained
    config = budgeted(base, 5)
    with hybridmu.connect(config, executor="local") as system:
        system.checkpoints(apply=True)
        places = by_place(system, ids)
        gone = []
        for shard, slice_ in ((0, 5), (1, 4), (0, 3), (1, 1)):
            start = max([i for i in existing(system, shard) if i < slice_], default=0) + 1
            gone.append(places[shard, slice_].pop())
            planned = system.plan(ids=gone[-1:], strategy="retrain").shards[0]
            assert planned.first_slice == start
            report = system.forget(ids=gone[-1:], strategy="retrain", wait=True)
            assert report["shards"][0]["sample_visits"] == report["shards"][0]["planned_visits"]
            assert report["shards"][0]["planned_visits"] == planned.sample_visits
            # The coordinator evicts again what the retrain made anew.
            assert system.checkpoints()["evicted"] == ()
            assert system.checkpoints()["fits"]
            assert_equal_to_reference(system, config, table, gone)


def mean_visits(system, ids) -> float:
    """The mean of what plans say of rows, each deleted alone; rows of one slice cost the same."""
    places = by_place(system, ids)
    visits = [system.plan(ids=rows[:1], strategy="retrain").shards[0].sample_visits for rows in places.values()]
    return sum(v * len(rows) for v, rows in zip(visits, places.values(), strict=True)) / len(ids)


def test_expected_visits_are_the_mean_of_what_plans_say(trained):
    config, _, ids = trained
    config = budgeted(config, 6)
    with hybridmu.connect(config, executor="local") as system:
        system.checkpoints(apply=True)
        assert system.checkpoints()["visits_before"] == pytest.approx(mean_visits(system, ids))
        waiting = by_place(system, ids)[0, 2][:1]  # its removal costs the checkpoints behind it
        system.forget(ids=waiting)
        left = [row for row in ids if row not in waiting]
        assert system.checkpoints()["visits_before"] == pytest.approx(mean_visits(system, left))
    with hybridmu.connect({**config, "cluster": {"cpus_per_shard": 2}}, executor="local") as other:
        # What other threads made is of no use to a retrain.
        assert other.checkpoints()["visits_before"] == pytest.approx(mean_visits(other, left))
        tight = other.site.settings.model_copy(update={"checkpoints": CheckpointSettings(budget_bytes=0)})
        keeper = CheckpointKeeper(Site(tight), other.ledger, other.registry)
        assert keeper.plan().visits_after == keeper.plan().visits_before


@pytest.mark.slow
def test_training_keeps_the_budget_but_calibration_gets_its_checkpoints(trained, tmp_path):
    base, _, ids = trained
    config = budgeted(base, 4)
    config |= {
        "storage_url": str(tmp_path / "second"),
        "policy": {"calibrate": True, "light_seconds": 0.0, "time_ratio": 1e-9},
    }
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        assert sum(len(existing(system, shard)) for shard in range(2)) > 4, "canaries need every checkpoint"
        system.train(calibrate=True)
        assert system.measurements.calibration().buckets
        assert sum(len(existing(system, shard)) for shard in range(2)) == 4
        plan = system.plan(ids=ids[:1])
        assert "checkpoint of the run that saw the rows is missing" in plan.explain()


def test_equal_weights_are_deleted_only_with_the_last_checkpoint_that_has_them(trained):
    with hybridmu.connect(budgeted(trained[0], 4), executor="local") as system:
        version = system.registry.version()
        first, last = version.shards[0].checkpoints[0], version.shards[0].checkpoints[-1]
        shared = replace(first, blob=last.blob)
        system.site.blobs.record(0, shared.lineage_key, shared.blob)
        twin = replace(version.shards[0], checkpoints=(shared, *version.shards[0].checkpoints[1:]))
        system.registry.version = lambda: replace(version, shards=(twin, *version.shards[1:]))
        assert (0, 1) in system.checkpoints(apply=True)["evicted"]
        assert system.site.blobs.find(0, last.lineage_key) == last.blob
        assert system.predict([{"a": 0.0, "b": 1.0, "c": 2.0}])


def test_checkpoints_are_not_deleted_under_a_coordinator(trained):
    with hybridmu.connect(budgeted(trained[0], 4), executor="local") as system:
        assert system.lease.acquire("somebody else", 30) is not None
        before = system.site.storage.list("blobs")
        with pytest.raises(StateError, match="another coordinator"):
            system.checkpoints(apply=True)
        assert system.site.storage.list("blobs") == before


def test_the_command_says_and_does_it(trained, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(budgeted(trained[0], 5)))
    run = CliRunner().invoke
    shown = run(app, ["checkpoints", "-c", str(file)])
    assert shown.exit_code == 0
    assert "5 of them go" in shown.output
    assert "--apply deletes them" in shown.output
    assert "They are deleted." in run(app, ["checkpoints", "-c", str(file), "--apply"]).output
    document = json.loads(run(app, ["checkpoints", "-c", str(file), "--json"]).stdout)
    assert (document["fits"], document["evicted"]) == (True, [])
