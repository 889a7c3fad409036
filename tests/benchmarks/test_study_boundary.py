"""The study of the boundary: regret in hindsight, learned models of it, and where curves cross."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study import crossover, decisions, learned, plots, regret, shards, study_tables
from benchmarks.study.decisions import DECIDERS, Decider, decided
from benchmarks.study.regret import RETRAIN, UPDATES, Decided, deletions, judge, replay
from benchmarks.study.shards import ShardRecord
from hybridmu.planning.cost import fit
from hybridmu.planning.planner import Policy

SYSTEM = ("digits", "mlp", 4, 3, 6)
STRATEGIES = (RETRAIN, *UPDATES, "rewind")


def record(strategy, shard=0, *, mix="share:0.1", seconds=1.0, gap=0.0, error=0.0, revoked=(4, 0, 0), **changes):
    made = ShardRecord(
        *SYSTEM, mix, strategy, 0, shard, 500, (3, 3, 3), (40, 40, 40), revoked, seconds, seconds, 100, 2, gap, 0.5,
        error, 0.0, 2,
    )  # fmt: skip
    return replace(made, **changes)


def measured(seconds, gaps=None, shard=0, **options):
    """Return one shard of a deletion by every strategy."""
    gaps = gaps or {}
    return [record(name, shard, seconds=seconds[name], gap=gaps.get(name, 0.0), **options) for name in seconds]


TIMES = {RETRAIN: 8.0, "dpus": 1.0, "dpus-optimised": 3.0, "dpus-newton": 2.0}


# ---------------------------------------------------------------------- regret


def plan(deletion, names):
    return judge(Decided(deletion, names, dict.fromkeys(names, "rule")))


@pytest.mark.parametrize(
    ("gaps", "chosen", "best", "charged"),
    [
        ({}, "dpus", "dpus", 1.0),
        ({}, RETRAIN, "dpus", 8.0),
        ({"dpus": -0.2}, "dpus-newton", "dpus-newton", 2.0),
        ({"dpus": 0.2}, "dpus", "dpus-newton", 1.0 + 8.0),  # it has to be made good
        ({"dpus": 0.1}, "dpus", "dpus", 1.0),
        (dict.fromkeys(UPDATES, 9.0), RETRAIN, RETRAIN, 8.0),
        ({"dpus": float("nan")}, "dpus-newton", "dpus-newton", 2.0),
    ],
)
def test_the_best_plan_in_hindsight_and_what_a_plan_is_charged(gaps, chosen, best, charged):
    (deletion,) = deletions(measured(TIMES, gaps))
    found = plan(deletion, {0: chosen})
    assert (found.best[0], found.seconds) == (best, charged)
    assert found.regret == pytest.approx(charged / TIMES[best] - 1)
    assert found.inadmissible == ({0} if charged > TIMES[chosen] else set())


def test_seconds_are_a_makespan_over_the_workers_that_measured():
    rows = [one for shard in range(3) for one in measured(TIMES, shard=shard)]
    (deletion,) = deletions(rows)
    assert regret.seconds(deletion, dict.fromkeys(range(3), RETRAIN)) == 16.0
    assert regret.seconds(deletion, {0: RETRAIN, 1: "dpus", 2: "dpus-newton"}) == 8.0
    assert regret.seconds(deletion, {}) == 0.0
    found = plan(deletion, dict.fromkeys(range(3), "dpus-newton"))
    assert (found.seconds, found.best_seconds, found.regret) == (4.0, 2.0, 1.0)


def test_what_is_faster_than_fast_enough_counts_as_just_that():
    (deletion,) = deletions(measured(TIMES))
    names = {0: "dpus-newton"}
    assert judge(Decided(deletion, names, names), enough=4.0).regret == 0.0
    assert judge(Decided(deletion, names, names), enough=8.0).regret == 1.0
    assert judge(Decided(deletion, names, names)).regret == 1.0
    assert regret.seconds(deletion, {0: "dpus"}, 2.0) == 4.0


@given(
    st.lists(
        st.tuples(*[st.floats(0.1, 9)] * 4, *[st.floats(-0.3, 0.3)] * 3), min_size=1, max_size=3
    ),
    st.data(),
)  # fmt: skip
def test_no_admissible_plan_beats_hindsight_where_jobs_do_not_wait(rows, data):
    names = (RETRAIN, *UPDATES)
    found = []
    for shard, (*seconds, a, b, c) in enumerate(rows):
        gaps = dict(zip(UPDATES, (a, b, c), strict=True))
        found += measured(dict(zip(names, seconds, strict=True)), gaps, shard, workers=3)
    (deletion,) = deletions(found)
    chosen = {shard: data.draw(st.sampled_from(names)) for shard in deletion.shards}
    ours = plan(deletion, chosen)
    assert ours.regret >= -1e-9
    assert plan(deletion, ours.best).regret == 0
    every = [dict(enumerate(each)) for each in itertools.product(names, repeat=len(rows))]
    admissible = [each for each in every if not plan(deletion, each).inadmissible]
    least = min(regret.seconds(deletion, each) for each in admissible)
    assert least == pytest.approx(ours.best_seconds)


def test_a_deletion_that_some_strategy_did_not_measure_is_passed_over():
    rows = measured(TIMES)
    assert len(deletions(rows)) == 1
    assert deletions(rows[:-1]) == []
    assert deletions([record(RETRAIN, mix="training"), *rows])[0].mix == "share:0.1"


def before(seconds):
    """Return what a system saw before the first deletion."""
    return [record(name, mix="first:3", seconds=each) for name, each in seconds.items()]


def unlike(rows):
    """Let canaries rule plain DPUS out."""
    return [replace(one, predicted_error=0.5 if one.strategy == "dpus" else 0.01) for one in rows]


def test_the_planner_is_replayed_with_what_it_knew_and_learns_from_what_it_chose():
    believed = {**TIMES, "dpus-newton": 5.0}  # the first deletion was slow
    rows = [*before(believed)]
    for number in range(3):
        rows += unlike(measured(TIMES, mix=f"rows:{number}"))
    found = replay(rows, Policy())
    assert [one.chosen[0] for one in found] == ["dpus-optimised"] * 3
    assert {one.rules[0] for one in found} == {"boundary"}
    told = replay([*before(TIMES), *rows[len(believed) :]], Policy())
    assert [one.chosen[0] for one in told] == ["dpus-newton"] * 3
    # What it chose is slow on three shards: it learns that, and changes its mind.
    slow = {**TIMES, "dpus-optimised": 7.0}
    rows = [one for shard in range(3) for one in unlike(measured(slow, mix="rows:0", shard=shard))]
    rows = [*before(believed), *rows, *unlike(measured(TIMES, mix="rows:1"))]
    assert [one.chosen[0] for one in replay(rows, Policy())] == ["dpus-optimised", "dpus-newton"]


@pytest.mark.parametrize(
    ("error", "class_excess", "rule"), [(0.05, 0.0, "boundary"), (0.2, 0.0, "quality"), (0.05, 0.5, "class")]
)
def test_the_guard_sees_what_was_predicted(error, class_excess, rule):
    rows = [*before(TIMES), *measured(TIMES, error=error, class_excess=class_excess)]
    (found,) = replay(rows, Policy())
    assert found.rules == {0: rule}
    (told,) = decided(rows, Decider("told", Policy(class_excess=1.0), told=True))
    assert (judge(told).regret, told.chosen) == (0, {0: "dpus"})


def test_a_cost_model_can_be_replaced():
    rows = [*before(TIMES), *measured(TIMES)]
    seen = []
    replay(rows, Policy(), lambda known: (seen.append(len(known)), fit(known))[1])
    assert seen == [len(TIMES)]


# ---------------------------------------------------------------------- shards on disk


def test_the_shards_file_keeps_the_last_of_a_repeated_measurement(tmp_path):
    path = shards.beside(tmp_path / "boundary.csv")
    assert path.name == "boundary-shards.csv"
    assert shards.read(path) == []
    first, again = record("dpus", seconds=1.0), record("dpus", seconds=2.0)
    shards.append(path, [first, record(RETRAIN, gap=float("nan"))])
    shards.append(path, [again])
    found = {one.strategy: one for one in shards.read(path)}
    assert found["dpus"] == again
    assert np.isnan(found[RETRAIN].gap)
    assert found["dpus"].stats().revoked == (4, 0, 0)
    assert found["dpus"].observation().rows == 116
    assert found[RETRAIN].observation().rows == 0
    assert record(RETRAIN, mix="training", revoked=(0, 0, 0)).observation().rows == 120, "it read them"


# ---------------------------------------------------------------------- learned models


def systems(count=4, per=40, *, bias=0.0, seed=0):
    """Return measurements whose seconds follow the analytic model, but for a factor that depends on the first slice."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        key = {"shards": 4 + number, "parameters": 500 * (number + 1)}
        rows = (60 + 20 * number,) * 3
        pace = 10.0 ** random.uniform(-5, -4)
        for known in range(4):
            for name, visits in ((RETRAIN, 4000 - 900 * known), ("dpus-newton", 500 + 300 * known)):
                one = record(name, known, mix="first:3", rows=rows, visits=visits, seconds=pace * visits, **key)
                found.append(one)
        for at in range(per):
            first = int(random.integers(0, 3))
            revoked = tuple(5 * (i == first) for i in range(3))
            seconds = {RETRAIN: 3000 - 1000 * first + 100 * random.uniform(), "dpus-newton": random.uniform(500, 3000)}
            for name in (RETRAIN, *UPDATES):
                visits = int(seconds.get(name, 700))
                factor = np.exp(bias * (first - 1) * (name == RETRAIN))
                job = {"visits": visits, "seconds": float(pace * visits * factor * np.exp(0.02 * random.normal()))}
                found.append(record(name, at, revoked=revoked, rows=rows, **job, **key))
    return found


def test_learned_models_gain_nothing_where_the_analytic_one_is_right_and_much_where_it_is_not():
    right = learned.pairs(systems(), "dpus-newton")
    wrong = learned.pairs(systems(bias=1.0), "dpus-newton")
    assert len(right.measured) == 160
    assert np.abs(right.measured - right.analytic).mean() < 0.1
    score = {s.budget: s for s in learned.compare(right, 1.0, same=True)}
    assert set(score) == {5, 10, 20}, "budgets that leave something to test on"
    assert score[20].wrong["analytic"] < 0.06
    for same in (True, False):
        found = {s.budget: s for s in learned.compare(wrong, 1.0, same=same)}[20]
        assert found.wrong["analytic"] > 0.15
        assert found.wrong["regressed"] < 0.7 * found.wrong["analytic"]
        assert found.wrong["classified"] < 0.7 * found.wrong["analytic"]
        assert found.spread["regressed"] < 0.5 * found.spread["analytic"]
    assert learned.compare(wrong, 1.0, same=False) == learned.compare(wrong, 1.0, same=False), "draws repeat"


def test_nothing_to_learn_from():
    empty = learned.pairs([], "dpus-newton")
    assert learned.compare(empty, 1.0, same=True) == []


# ---------------------------------------------------------------------- figures and tables


def test_where_curves_cross():
    assert crossover.crossings([(1, 4), (2, 2), (3, 1)], [(1, 1), (2, 1), (3, 3)]) == [pytest.approx(2 + 1 / 3)]
    assert crossover.crossings([(1, 4), (2, 3)], [(1, 1), (2, 1)]) == []
    assert crossover.crossings([(1, 4), (5, 0)], [(1, 1)]) == [], "one point in common is no line"


def test_tables_of_decisions(tmp_path):
    path = shards.beside(tmp_path / "boundary.csv")
    rows = [*before(TIMES)]
    for number in range(4):
        rows += [one for shard in range(2) for one in measured(TIMES, mix=f"rows:{number}", shard=shard, error=0.01)]
    shards.append(path, rows)
    text = study_tables.TABLES["regret"](tmp_path, "boundary")
    lines = {line.split(" | ")[1]: line for line in text.splitlines()[2:]}
    assert set(lines) == {decider.name for decider in DECIDERS}
    assert "| 4 | 700 % | 700 % | 700 % | 700 % | 700 % | 0 % | 0.0 % | always 8 | missed |" in lines["always retrain"]
    assert "| 4 | 0 % | 0 % | 0 % | 0 % | 0 % | 100 % | 0.0 % | dpus 8 | **met** |" in lines["any update (the default)"]
    assert "| 4 | 200 % |" in lines["one update"]
    text = study_tables.TABLES["estimates"](tmp_path, "boundary")
    assert "| digits/mlp | retrain | 8 | 1.0" in text
    for name in ("regret", "estimates", "learned"):
        assert len(study_tables.TABLES[name](tmp_path, "headline").splitlines()) == 2, "a head alone"
    assert plots.FIGURES["regret"](tmp_path).startswith("<svg")
    assert decisions.MEDIAN < decisions.HIGH
