"""Findings of shadow models: on real trainings, an auditor tells who remembers, and admits when it can't."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from hybridmu.core.audit import shadow_models as shadow
from hybridmu.core.audit.audit_report import curve, findings, served
from hybridmu.core.audit.shadow_models import Score, Shadow
from hybridmu.core.evaluation import mean_loss
from hybridmu.core.tasks.regression import Regression
from tests.core.audit.test_shadow_models import ground
from tests.scenes.shard_in_memory import trained

MODELS = 10


def shadows(strategy: str, alpha: float, *, epochs: int = 12, models: int = MODELS, rows: int = 60) -> list[Shadow]:
    """Shadow models of a noisy shard, whose rows are learnt by heart in 12 epochs a slice, and hardly at all in one."""
    shard = trained(rows=rows, epochs=epochs, lr=0.1 if epochs > 1 else 0.001)
    on = ground(shard, 0.15)
    made = []
    for number in range(models):
        kinds, _ = shadow.make(on, number, strategy, alpha)
        target = mean_loss(kinds["nothing"], on.context.revoked, shard.task)
        made.append(Shadow(number, {k: shadow.score(on, m, on.context.revoked, target) for k, m in kinds.items()}, {}))
    return made


@pytest.fixture(scope="module")
def exact():
    return shadows("retrain", 0.0)


def renamed(made: list[Shadow], **kinds: str) -> list[Shadow]:
    """The same models, some of them passed off as others."""
    return [replace(s, models=s.models | {name: s.models[kind] for name, kind in kinds.items()}) for s in made]


def test_an_exact_strategy_is_like_the_oracle(exact):
    found = findings([exact])
    assert found.telling
    assert found.verdict == "like the oracle"
    assert (found.gap.unlearned, found.tow.unlearned, found.accuracy.unlearned) == (0.0, 1.0, 0.0)
    assert found.auc.unlearned == found.auc.oracle
    assert found.klom["forget"].unlearned == found.klom["forget"].oracle < found.klom["forget"].nothing
    assert found.relearn.unlearned == found.relearn.oracle > found.relearn.nothing == 0.0
    assert found.auc.nothing > 0.8
    assert abs(found.gap.oracle) < 2 * found.noise < abs(found.gap.nothing)


def test_a_strategy_that_does_nothing_is_caught(exact):
    idle = shadows("dpus", 0.0, models=MODELS)
    found = findings([idle])
    assert found.verdict == "told apart"
    assert found.auc.unlearned == found.auc.nothing
    assert found.gap.unlearned == found.gap.nothing < -found.chance
    assert found.left == 1.0
    assert found.relearn.unlearned == 0


def test_a_strategy_that_overshoots_is_caught_too():
    found = findings([shadows("dpus", 3.0)])
    assert found.gap.unlearned > 2 * found.noise
    assert found.verdict == "told apart"
    assert found.left < 0, "it knows less than an oracle"


def test_an_auditor_that_cant_tell_doing_nothing_from_the_oracle_says_so(exact):
    # Hardly trained, a model knows its rows no better than others: a good figure of the strategy would mean nothing.
    found = findings([shadows("dpus", 0.5, epochs=1)])
    assert not found.telling
    assert found.verdict == "inconclusive"
    # A ceiling that is an oracle in truth is noticed as well, and so is a floor that still knows the rows.
    assert not findings([renamed(exact, nothing="oracle")]).telling
    assert not findings([renamed(exact, oracle="nothing")]).telling


def test_few_models_say_nothing(exact):
    assert findings([exact[:7]]).verdict == "inconclusive"
    for wrong in ([exact[:2]], [exact, exact[:5]], []):
        with pytest.raises(ValueError, match="at least three models"):
            findings(wrong)


def test_shards_are_summed_up_row_by_row(exact):
    one, two = findings([exact]), findings([exact, exact])
    assert two.rows == 2 * one.rows
    for summed, single in ((two.klom["forget"], one.klom["forget"]), (two.gap, one.gap), (two.auc, one.auc)):
        assert astuple(summed) == pytest.approx(astuple(single))
    assert two.guesses == 2 * one.guesses == 2 * MODELS * one.rows


def test_rates_below_one_guess_are_not_given(exact):
    found = findings([exact])
    assert found.guesses < 100
    assert math.isnan(found.tpr_at_one.nothing)
    many = findings([exact] * (1 + 100 // found.guesses))
    assert 0 <= many.tpr_at_one.nothing <= 1
    assert math.isnan(many.tpr_at_tenth.nothing)


def test_without_unseen_rows_the_rest_is_measured(exact):
    def without(score: Score) -> Score:
        return replace(score, unseen=(), accuracies=(*score.accuracies[:2], math.nan))

    blind = [replace(s, models={kind: without(score) for kind, score in s.models.items()}) for s in exact]
    found, full = findings([blind]), findings([exact])
    assert math.isnan(found.accuracy.unlearned)
    assert math.isnan(found.klom["unseen"].unlearned)
    assert found.auc == full.auc
    assert found.tow.unlearned == 1.0


def test_a_thinned_curve_keeps_its_ends_and_stays_on_the_curve():
    random = np.random.default_rng(0)
    positives, negatives = random.normal(1, 1, (40, 30)), random.normal(0, 1, (40, 30))
    found = curve(positives, negatives)
    assert (found.false[0], found.true[0], found.false[-1], found.true[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert list(found.false) == sorted(found.false)
    assert list(found.true) == sorted(found.true)
    assert len(found.false) <= 202
    at_one = max(t for f, t in zip(found.false, found.true, strict=True) if f <= 0.01)
    exact = max((positives > t).mean() for t in np.append(negatives, np.inf) if (negatives > t).mean() <= 0.01)
    assert at_one == pytest.approx(exact, abs=0.02)


# ---------------------------------------------------------------------- rows that were really revoked


def watched(shift: float, models: int = 9) -> list[Shadow]:
    """Oracles around 0, the served model `shift` above, the one before at 5."""
    random = np.random.default_rng(1)

    def score(values, loss):
        return Score(tuple(values), (), (), loss, (1.0, 1.0, math.nan), 3)

    made = []
    for number in range(models):
        scores = {"oracle": score(random.normal(0, 1, 200), 1.0 + 0.01 * number)}
        if number == 0:
            scores["served"] = score(random.normal(shift, 1, 200), 1.0 - shift / 10)
            scores["before"] = score(random.normal(5, 1, 200), 0.5)
        made.append(Shadow(number, {}, scores))
    return made


def test_a_served_model_that_knows_the_rows_is_surer_than_every_oracle():
    clean, knows, over = served(watched(0.0)), served(watched(4.0)), served(watched(-4.0))
    assert clean.surer == pytest.approx(clean.chance, abs=0.06)
    assert clean.less_sure == pytest.approx(clean.chance, abs=0.06)
    assert knows.surer > 0.9
    assert over.less_sure > 0.9
    assert knows.gap == pytest.approx(-0.4)
    assert clean.gap_before == pytest.approx(-0.5)
    assert clean.surer_before > 0.95


def test_of_numbers_a_model_is_surer_where_it_is_nearer_to_the_target_on_either_side():
    sureness = Regression().sureness
    far = [replace(one, watched={kind: moved(score, 3.0) for kind, score in one.watched.items()}) for one in watched(0)]
    near = [replace(far[0], watched={**far[0].watched, "served": moved(far[0].watched["served"], -3.0)}), *far[1:]]
    off = [replace(far[0], watched={**far[0].watched, "served": moved(far[0].watched["served"], -11.0)}), *far[1:]]
    assert served(near, sureness).surer > 0.5
    assert served(off, sureness).less_sure > 0.9, "-8 is as far from the target as 8"
    assert served(off).surer == 0.0, "as log-odds they would be judged by their sign"


def moved(score: Score, by: float) -> Score:
    return replace(score, forget=tuple(value + by for value in score.forget))


def test_what_went_meanwhile_is_not_summed_up():
    made = watched(0.0)
    assert served([*made[:1], Shadow(1, {}, {}), *made[2:]]) is None, "a purge took the rows"
    assert served([Shadow(n, {}, {}) for n in range(3)]) is None
    gone = replace(made[0], watched={k: v for k, v in made[0].watched.items() if k != "before"})
    assert math.isnan(served([gone, *made[1:]]).gap_before)
