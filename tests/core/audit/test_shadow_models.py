"""Shadow models: what they are trained on, that they repeat, and that exact strategies are exact in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.audit import shadow_models as shadow
from hybridmu.core.audit.measures import differing_tensors
from hybridmu.core.audit.shadow_models import Ground, Score, Shadow
from hybridmu.core.evaluation import mean_loss
from hybridmu.core.kernel.model import initial_model, state_of
from tests.scenes.shard_in_memory import CLASSES, FEATURES, Trained, make_rows, trained


def ground(shard: Trained, share: float = 0.1) -> Ground:
    """The shard with canaries picked from its rows, and 40 rows that it never saw."""
    mask = shadow.pick(shard.rows.words, share, shard.recipe.seed, 0)

    def fresh(seed: int):
        return initial_model(shard.task, features=FEATURES, classes=CLASSES, standardize=True, seed=seed, shard=0)

    retain = shadow.sample(shard.rows.where(~mask), 0, 0, 30)
    return Ground(shard.context(mask), shard.rows, fresh, retain, make_rows(40))


@pytest.fixture(scope="module")
def small() -> tuple[Trained, Ground]:
    shard = trained(rows=90, epochs=4)
    return shard, ground(shard)


words = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=60, unique=True).map(lambda x: np.array(x, np.uint64))


@given(words, st.floats(0.001, 0.999), st.integers(0, 5))
def test_canaries_are_as_many_as_asked_for_and_never_all(rows, share, seed):
    mask = shadow.pick(rows, share, seed, 1)
    assert mask.sum() == min(max(1, round(share * len(rows))), len(rows) - 1)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert set(rows[mask]) == set(rows[order][shadow.pick(rows[order], share, seed, 1)]), "places of rows do not matter"


def test_numbers_have_seeds_of_their_own():
    every = [seed for number in range(50) for seed in shadow.seeds(7, number)]
    assert len(set(every)) == 100
    assert shadow.seeds(7, 0)[0] == 7
    assert not set(every) & {seed for number in range(1, 50) for seed in shadow.seeds(8, number)}


def test_doing_nothing_is_the_shard_itself_and_the_oracle_never_saw_the_canaries(small):
    shard, on = small
    models, trajectory = shadow.make(on, 0, "dpus", 0.5)
    assert set(models) == set(shadow.KINDS)
    for slice_, state in shard.states.items():
        assert differing_tensors(trajectory[slice_], state) == ()
    revoked = shadow.pick(shard.rows.words, 0.1, shard.recipe.seed, 0)
    assert differing_tensors(state_of(models["nothing"]), shard.states[3]) == ()
    assert differing_tensors(state_of(models["oracle"]), state_of(shard.oracle(revoked))) == ()
    for kind in ("unlearned", "reference"):
        assert differing_tensors(state_of(models[kind]), state_of(models["oracle"]))
    losses = {kind: mean_loss(model, on.context.revoked, shard.task) for kind, model in models.items()}
    assert losses["nothing"] < min(losses["oracle"], losses["reference"])


@pytest.mark.parametrize("number", [0, 3])
def test_an_exact_strategy_gives_the_oracle_of_the_same_seed(small, number):
    models, _ = shadow.make(small[1], number, "retrain", 0.0)
    assert differing_tensors(state_of(models["unlearned"]), state_of(models["oracle"])) == ()


def test_another_number_gives_other_models_and_the_same_one_the_same(small):
    on = small[1]
    first, again, other = (shadow.make(on, number, "dpus-newton", 1.0)[0] for number in (1, 1, 2))
    for kind in shadow.KINDS:
        assert differing_tensors(state_of(first[kind]), state_of(again[kind])) == ()
        assert differing_tensors(state_of(first[kind]), state_of(other[kind]))


def test_a_score_is_what_the_model_says(small):
    shard, on = small
    canaries = on.context.revoked
    target = mean_loss(shard.model(), canaries, shard.task)
    found = shadow.score(on, shard.model(), canaries, target)
    assert (len(found.forget), len(found.retain), len(found.unseen)) == (len(canaries), 30, 40)
    assert found.relearn == 0
    assert found.loss == target
    right = np.array(found.retain) > 0
    assert found.accuracies[1] >= right.mean() - 1e-9, "a positive margin is more than half: surely the greatest"
    oracle = shadow.score(on, shadow.make(on, 0, "dpus", 0.5)[0]["oracle"], canaries, target)
    assert oracle.relearn > 0


def test_scores_survive_the_file():
    odd = Score((1.5, -2.25), (), (), 0.1 + 0.2, (0.5, 1.0, math.nan), 21)
    back = Shadow.from_json(Shadow(4, {"oracle": odd}, {"served": odd}).to_json())
    assert back.number == 4
    assert back.models["oracle"].forget == odd.forget
    assert back.watched["served"].loss == odd.loss
    assert math.isnan(back.models["oracle"].accuracies[2])
