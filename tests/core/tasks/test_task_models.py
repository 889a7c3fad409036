"""Models beyond plain ones: trained, retrained to the bit, and changed by the updates that they allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hybridmu.core.strategies import get
from hybridmu.core.strategies.curvature import gauss_newton
from hybridmu.core.strategies.requirements import unfit_updates
from hybridmu.errors import StrategyUnavailableError
from hybridmu.planning.cost import CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.task import Cnn, Linear, Mlp
from hybridmu.types import Calibration
from tests.core.tasks.test_task_check import WORKS, Made
from tests.scenes.shard_in_memory import FEATURES, trained
from tests.support import touched_at

# Their state_dict holds what is needed, and every batch may have any size.
KINDS = [name for name in WORKS if name not in {"cnn", "linear", "mlp", "nothing trained"}]


def retrained(shard, revoked, **changes):
    """Return (state of an exact removal from checkpoints, state of a training from scratch without the rows)."""
    context = shard.context(revoked, checkpoint=lambda n: shard.states[n] if n < first_of(shard, revoked) else None)
    return get("retrain").run(context).state, shard.oracle(revoked).state_dict()


def first_of(shard, revoked):
    return int(shard.rows.slice[revoked][0])


def assert_same(ours, oracle):
    assert ours.keys() == oracle.keys()
    assert [name for name in ours if not torch.equal(ours[name], oracle[name])] == []


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_retrained_to_the_bit(name):
    shard = trained(rows=40, epochs=2, task=WORKS[name])
    for first in (1, 3):
        revoked = np.zeros(40, np.bool_)
        revoked[np.flatnonzero(shard.rows.slice == first)[:3]] = True
        assert_same(*retrained(shard, revoked))


@pytest.mark.parametrize("name", ["tied", "masked", "frozen", "attention", "embedded", "layer norm", "expanded"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_plain_and_tuned_updates_take_every_kind_of_model(name, optimizer):
    shard = trained(rows=40, epochs=2, task=WORKS[name], optimizer=optimizer, lr=0.02)
    revoked = np.zeros(40, np.bool_)
    revoked[:3] = True
    assert not set(unfit_updates(shard.fresh_model(), shard.task, FEATURES)) & {"dpus", "dpus-optimised"}
    for strategy in ("dpus", "dpus-optimised"):
        state = get(strategy).run(shard.context(revoked)).state
        changed = {n for n in state if not torch.equal(state[n], shard.states[3][n])}
        assert changed
        shard.model(state)


def test_what_is_shared_is_changed_under_all_of_its_names():
    shard = trained(rows=40, epochs=2, task=WORKS["tied"])
    revoked = np.zeros(40, np.bool_)
    revoked[:3] = True
    for strategy in ("dpus", "dpus-newton"):
        state = get(strategy).run(shard.context(revoked)).state
        (one, two) = (name for name in state if name.endswith(("a.weight", "b.weight")))
        assert torch.equal(state[one], state[two])
        assert not torch.equal(state[one], shard.states[3][one])
        assert torch.equal(shard.model(state).state_dict()[one], state[one]), "loading keeps it"


def test_a_frozen_layer_of_a_plain_network_is_left_out_of_curvature():
    shard = trained(rows=40, epochs=2, task=WORKS["frozen"])
    model, x = shard.model(), shard.rows.x
    parameters = [p for p in model.parameters() if p.requires_grad]
    vector = [torch.ones_like(p) for p in parameters]
    found = gauss_newton(model, x)(vector)
    assert [part.shape for part in found] == [p.shape for p in parameters]
    assert all(part.abs().sum() > 0 for part in found)
    revoked = np.zeros(40, np.bool_)
    revoked[:3] = True
    state = get("dpus-newton").run(shard.context(revoked)).state
    frozen = [name for name in state if name.startswith("1.0.")]
    assert frozen
    assert all(torch.equal(state[name], shard.states[3][name]) for name in frozen)


# ---------------------------------------------------------------------- what an update needs


class NoSecond(torch.autograd.Function):
    """A kernel with a gradient that has none itself, as fused attention."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, given):
        return given * 2


class NoFirst(torch.autograd.Function):
    """A kernel whose gradient is for training only, as some recurrent ones on a GPU."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, given):
        raise NotImplementedError("only in training mode")


class Through(nn.Module):
    def __init__(self, f, c, kernel):
        super().__init__()
        self.h, self.kernel = nn.Linear(f, c), kernel

    def forward(self, x):
        return self.kernel.apply(self.h(x)) if self.kernel is NoSecond or not self.training else self.h(x) * 2


class TakesNoZeros(nn.Module):
    def __init__(self, f, c):
        super().__init__()
        self.h = nn.Linear(f, c)

    def forward(self, x):
        if not x.any():
            raise ValueError("a blank picture")
        return self.h(x)


def unfit(task):
    return unfit_updates(trained(rows=12, epochs=1, task=task).fresh_model(), task, FEATURES)


def test_without_a_second_derivative_only_the_damped_update_is_out():
    assert unfit(Made(lambda f, c: Through(f, c, NoSecond))).keys() == {"dpus-newton"}
    assert unfit(WORKS["attention"]).keys() <= {"dpus-newton"}


def test_without_a_gradient_in_evaluation_no_update_is_left():
    found = unfit(Made(lambda f, c: Through(f, c, NoFirst)))
    assert found.keys() == {"dpus", "dpus-optimised", "dpus-newton"}
    assert all(
        "NotImplementedError: only in training mode (test_task_models.py:" in reason for reason in found.values()
    )


@pytest.mark.parametrize(
    ("task", "says"),
    [(WORKS["nothing trained"], {"no parameter"}), (Made(TakesNoZeros), set()), (Mlp([4]), set())],
)
def test_what_a_model_says_of_updates(task, says):
    assert {text for text in unfit(task).values() for word in says if word in text} == set(unfit(task).values())
    assert bool(unfit(task)) == bool(says)


def test_a_plan_passes_over_what_the_model_does_not_allow_and_says_so():
    stats, pools = [touched_at(1)], Pools(1, 1)
    policy = Policy(unfit={"dpus-newton": "a layer has no second derivative"})
    with pytest.raises(StrategyUnavailableError, match="no second derivative"):
        make_plan(stats, CostModel(), policy, pools, Calibration(), "dpus-newton")
    assert make_plan(stats, CostModel(), policy, pools, Calibration(), "dpus").shards[0].strategy == "dpus"
    none = Policy(unfit=dict.fromkeys(policy.approximate, "no parameter is trained"))
    (only,) = make_plan(stats, CostModel(), none, pools, Calibration()).shards
    assert (only.strategy, only.reasons) == ("retrain", ("no update is available: no parameter is trained",))


def test_a_damped_update_without_derivatives_is_unavailable_rather_than_a_traceback():
    shard = trained(rows=30, epochs=1, task=Made(lambda f, c: Through(f, c, NoSecond)))
    revoked = np.zeros(30, np.bool_)
    revoked[:2] = True
    with pytest.raises(StrategyUnavailableError, match=r"damped update is unavailable[\s\S]*RuntimeError"):
        get("dpus-newton").run(shard.context(revoked))


# ---------------------------------------------------------------------- batch normalisation, down to one row


def normalised(f, c):
    return nn.Sequential(nn.Linear(f, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, c))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("left", ["one in slice 1", "one in slice 2", "none, then one", "one at all"])
def test_a_deletion_that_leaves_one_row_ends_and_is_exact(left, momentum):
    shard = trained(rows=30, epochs=2, task=Made(normalised), momentum=momentum)
    slices = shard.rows.slice
    keep = {"one in slice 1": slices > 1, "one in slice 2": slices == 3, "none, then one": slices == 3}.get(left)
    keep = np.zeros(30, np.bool_) if keep is None else keep.copy()
    wanted = {"one in slice 1": 1, "one in slice 2": 2, "none, then one": 2, "one at all": 3}[left]
    keep[np.flatnonzero(slices == wanted)[0]] = True
    ours, oracle = retrained(shard, ~keep)
    assert_same(ours, oracle)
    assert all(bool(torch.isfinite(value).all()) for value in ours.values())
    assert any(not torch.equal(ours[n], v) for n, v in shard.fresh_model().state_dict().items()), "it did learn"


def test_a_single_row_teaches_no_batch_statistics():
    shard = trained(rows=30, epochs=2, task=Made(normalised))
    keep = np.zeros(30, np.bool_)
    keep[0] = True
    ours, _ = retrained(shard, ~keep)
    assert torch.equal(ours["1.1.running_mean"], torch.zeros(4))
    assert ours["1.1.num_batches_tracked"] == 0


def test_where_a_single_row_has_a_spread_nothing_changes():
    """Over the pixels of a picture, batch normalisation trains on one row as it always did."""

    def pictures(f, c):
        return nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(18, c)
        )

    shard = trained(rows=20, epochs=2, task=Made(pictures))
    keep = np.zeros(20, np.bool_)
    keep[0] = True
    ours, oracle = retrained(shard, ~keep)
    assert_same(ours, oracle)
    assert ours["1.2.num_batches_tracked"] > 0


@pytest.mark.parametrize("strategy", ["rewind", "dpus-optimised"])
def test_other_strategies_end_on_a_single_row_too(strategy):
    shard = trained(rows=30, epochs=2, task=Made(normalised))
    revoked = np.ones(30, np.bool_)
    revoked[0] = False
    get(strategy).run(shard.context(revoked))


def test_every_update_is_open_to_the_built_ins():
    for task in (Cnn([1, 2, 3], 8, 1), Mlp([4]), Linear()):
        assert unfit(task) == {}
