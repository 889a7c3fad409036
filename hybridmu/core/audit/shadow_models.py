"""Shadow models: one shard trained again with other seeds, to audit how a strategy forgets.

Some live rows of the shard play the part of revoked ones (*canaries*): the shard is trained with them, unlearned by the
strategy under audit, and trained without them. No row that was really revoked is needed, so any system can be audited.
Every number n gives four models with two seeds:

    nothing     trained with the canaries, seed a_n: what doing nothing leaves (control, ceiling)
    unlearned   the same, after the strategy has removed the canaries
    oracle      trained without them, seed a_n: what the strategy should have given, and a control (floor)
    reference   trained without them, seed b_n: what distributions of the other three are compared with

All three are compared with the same independent references, so that floor, audited strategy and ceiling mean the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from hybridmu.core import evaluation
from hybridmu.core.audit import measures
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.partition import U64, derive, epoch_order
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.strategies import Context, get
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.errors import DivergedError
from hybridmu.kinds import FALLBACK

# Margins are taken at so many rows of each kind: enough for a distribution, small enough to be kept.
_FORGOTTEN, _OTHERS = 512, 256
_RELEARN_EPOCHS = 20

KINDS = ("unlearned", "oracle", "reference", "nothing")


@dataclass(frozen=True)
class Score:
    """One model, measured.

    Attributes:
        forget: Margins at (at most 512 of) the forgotten rows: the judgement's, such as log-odds of the right class.
        retain: The same at a sample of the rows that stay.
        unseen: The same at test rows of the shard; empty when there are none.
        loss: Mean loss on all forgotten rows.
        accuracies: On the forgotten rows, the retained sample and the unseen rows; NaN without rows.
        relearn: Epochs on the forgotten rows until their loss is what it was before they were forgotten; 21: not
            within 20.
    """

    forget: tuple[float, ...]
    retain: tuple[float, ...]
    unseen: tuple[float, ...]
    loss: float
    accuracies: tuple[float, float, float]
    relearn: int


@dataclass(frozen=True)
class Shadow:
    """What one number gives.

    Attributes:
        number: Of the seeds, from 0; number 0 trains with the system's own seed.
        models: Kind → its score on the canaries.
        watched: Scores on rows that were really revoked, by models that never saw them (`oracle`), and with number 0 by
            the served sub-model (`served`) and the one before their removal (`before`). Empty without such rows.
    """

    number: int
    models: Mapping[str, Score]
    watched: Mapping[str, Score]

    def to_json(self) -> str:
        """Return it as JSON, with NaN as Python writes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        raw = json.loads(text)
        models, watched = ({kind: _score(score) for kind, score in raw[name].items()} for name in ("models", "watched"))
        return cls(raw["number"], models, watched)


@dataclass(frozen=True, eq=False)
class Ground:
    """A shard on which shadow models are made.

    Attributes:
        context: As for a removal of the canaries; its seed, fresh model and checkpoints are replaced for every model.
        everything: Live rows and canaries, in canonical order.
        fresh: Seed → the untrained sub-model, on the device of the rows.
        retain: Sample of the live rows.
        unseen: Test rows.
    """

    context: Context
    everything: Rows
    fresh: Callable[[int], SubModel]
    retain: Rows
    unseen: Rows

    def seeded(self, seed: int, *, everything: bool = False) -> Context:
        """Return the context of a run with another seed.

        Args:
            seed: Of the order of the rows and the initial weights; where a row lies stays the same.
            everything: Train on the canaries too.
        """
        live = self.everything if everything else self.context.live
        recipe = replace(self.context.recipe, seed=seed)
        return replace(self.context, live=live, recipe=recipe, fresh_model=lambda: self.fresh(seed))

    def model(self, state: State) -> SubModel:
        """Return a sub-model with given weights."""
        model = self.fresh(self.context.recipe.seed)
        model.load_state_dict(state)
        return model


def seeds(seed: int, number: int) -> tuple[int, int]:
    """Return the seeds (a_n, b_n) of one number; a_0 is the system's own."""
    ours = seed if number == 0 else derive(f"audit/{seed}/{number}") >> 1
    return ours, derive(f"audit-reference/{seed}/{number}") >> 1


def pick(words: U64, share: float, seed: int, shard: int) -> npt.NDArray[np.bool_]:
    """Return a mask of canaries, drawn uniformly from the live rows of a shard.

    Args:
        words: Ordering words of the rows, uint64 [n], n ≥ 2.
        share: How many of them, in (0, 1).
        seed: Decides which, with the shard and their ids.
        shard: Shard number.

    Returns:
        bool [n], at least one row true and at least one false.
    """
    count = min(max(1, round(share * len(words))), len(words) - 1)
    mask = np.zeros(len(words), dtype=np.bool_)
    mask[epoch_order(words, seed ^ (derive("audit-canaries") >> 1), shard, 0, 0)[:count]] = True
    return mask


def sample(rows: Rows, seed: int, shard: int, limit: int = _OTHERS) -> Rows:
    """Return at most `limit` rows, drawn uniformly, order kept."""
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[epoch_order(rows.words, seed ^ (derive("audit-points") >> 1), shard, 0, 0)[:limit]] = True
    return rows.where(mask)


def make(ground: Ground, number: int, strategy: str, alpha: float) -> tuple[dict[str, SubModel], dict[int, State]]:
    """Make the four models of one number.

    Args:
        ground: The shard.
        number: Decides both seeds.
        strategy: Under audit, as registered.
        alpha: Its step, where it has one.

    Returns:
        (kind → model, the trajectory of `nothing`: slice → state). Deterministic.
    """
    ours, theirs = seeds(ground.context.recipe.seed, number)
    trajectory = train(ground, ours, everything=True)
    states = {
        "unlearned": unlearn(ground, ours, trajectory, strategy, alpha),
        "oracle": _last(train(ground, ours)),
        "reference": _last(train(ground, theirs)),
        "nothing": _last(trajectory),
    }
    return {kind: ground.model(states[kind]) for kind in KINDS}, trajectory


def train(ground: Ground, seed: int, *, everything: bool = False) -> dict[int, State]:
    """Return slice → state of a training from scratch.

    Args:
        ground: The shard.
        seed: Of order and initial weights.
        everything: With the canaries.
    """
    made: dict[int, State] = {}

    def save(slice_: int, state: State, _: int) -> None:
        made[slice_] = state

    get(FALLBACK).run(replace(ground.seeded(seed, everything=everything), checkpoint=lambda _: None, save=save))
    return made


def unlearn(ground: Ground, seed: int, trajectory: Mapping[int, State], strategy: str, alpha: float) -> State:
    """Return what a strategy makes of a model that was trained with the canaries.

    Args:
        ground: The shard.
        seed: Of the trajectory.
        trajectory: From `train` with everything.
        strategy: As registered.
        alpha: Its step, where it has one.

    Returns:
        Its weights.

    Raises:
        DivergedError: They are not finite.
    """
    chosen = get(strategy)
    first = int(ground.context.revoked.slice[0])

    def checkpoint(slice_: int) -> State | None:
        # An exact strategy is given clean checkpoints alone: the product finds them by the lineage of the live rows.
        return trajectory.get(slice_) if slice_ < first or not chosen.exact else None

    context = ground.seeded(seed)
    made = chosen.run(replace(context, checkpoint=checkpoint, current=_last(trajectory), alpha=alpha)).state
    if not all(bool(torch.isfinite(tensor).all()) for tensor in made.values()):
        raise DivergedError(f"weights that {strategy} made are not finite", remedy="choose a smaller policy.alpha")
    return made


def score(ground: Ground, model: SubModel, forgotten: Rows, target: float) -> Score:
    """Measure a model.

    Args:
        ground: Retained and unseen rows, recipe, task.
        model: Trained further at the end: not to be used again.
        forgotten: Canaries, or rows that were really revoked.
        target: Their mean loss before they were forgotten, for the relearn time.

    Returns:
        Its score.
    """
    task, recipe, shard = ground.context.task, ground.context.recipe, ground.context.shard
    groups = (sample(forgotten, recipe.seed, shard, _FORGOTTEN), ground.retain, ground.unseen)
    forget, retain, unseen = (_margins(model, rows, task) for rows in groups)
    loss = evaluation.mean_loss(model, forgotten, task)
    accuracies = (
        _metric(model, forgotten, task),
        _metric(model, ground.retain, task),
        _metric(model, ground.unseen, task),
    )
    relearn = measures.relearn_epochs(model, forgotten, target, recipe, task, _RELEARN_EPOCHS)
    return Score(forget, retain, unseen, loss, accuracies, relearn)


def _margins(model: SubModel, rows: Rows, task: Task) -> tuple[float, ...]:
    if not len(rows):
        return ()
    return tuple(judgement_of(task).margins(evaluation.logits_of(model, rows, 0).cpu(), rows.y.cpu()).tolist())


@torch.no_grad()
def _metric(model: SubModel, rows: Rows, task: Task) -> float:
    if not len(rows):
        return math.nan
    return judgement_of(task).metric(evaluation.logits_of(model, rows, 0), rows.y)


def _last(trajectory: Mapping[int, State]) -> State:
    return trajectory[max(trajectory)]


def _score(raw: dict[str, Any]) -> Score:
    forget, retain, unseen, accuracies = (tuple(raw[name]) for name in ("forget", "retain", "unseen", "accuracies"))
    return Score(forget, retain, unseen, raw["loss"], accuracies, raw["relearn"])
