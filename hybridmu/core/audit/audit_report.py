"""Findings of many shadow models: every figure with its two controls, and whether the audit can tell anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridmu.core.audit import measures
from hybridmu.core.audit.shadow_models import Score, Shadow
from hybridmu.core.evaluation import F64
from hybridmu.core.tasks.classification import Classification

_RESAMPLES = 200
_LOG_ODDS = Classification().sureness
# Models drawn again from fewer than these say little about other models.
_FEWEST = 8
_CURVE_POINTS = 200
_COMPARED = ("unlearned", "oracle", "nothing")  # with the references


@dataclass(frozen=True)
class Figure:
    """One measure of the audited strategy and of the two controls. NaN: it can't be measured here.

    Attributes:
        unlearned: Of the models that the strategy made.
        oracle: Of models that never saw the rows (floor).
        nothing: Of models that still know the rows (ceiling).
    """

    unlearned: float
    oracle: float
    nothing: float


@dataclass(frozen=True)
class Curve:
    """Points of a ROC curve: false- and true-positive rates, from (0, 0) to (1, 1)."""

    false: tuple[float, ...]
    true: tuple[float, ...]


@dataclass(frozen=True)
class Findings:
    """The figures of an audit.

    Attributes:
        models: Shadow models of each kind and shard.
        rows: Forgotten rows at which margins were taken, over all shards.
        guesses: How many guesses an attack makes about oracles: what its false-positive rate is a share of.
        gap: Mean loss on the forgotten rows minus the oracle's of the same seed; for the oracle, the reference's.
        noise: Root mean square of two oracles' difference in that loss: what chance gives a single model.
        chance: Mean gaps up to this may be chance: two standard errors of the mean over all models.
        tow: Tug-of-war score; 1 is ideal.
        accuracy: Accuracy on unseen rows minus the oracle's of the same seed, in [−1, 1].
        relearn: Mean epochs until the rows are learnt again.
        klom: Row kind (`forget`, `retain`, `unseen`) → mean KLoM.
        klom_tail: The same, 95th percentile over rows.
        auc: Area under the ROC curve of U-LiRA; 0.5 is blind guessing.
        auc_low: Lower end of its 95 % interval over models.
        auc_high: Upper end.
        tpr_at_one: True-positive rate at 1 % false positives; NaN below 100 guesses.
        tpr_at_tenth: At 0.1 %; NaN below 1000 guesses.
        losses: Kind of model → mean forget loss of each model.
        klom_rows: Kind of model → KLoM of every forgotten row, sorted.
        roc: Kind of model → its ROC curve.
    """

    models: int
    rows: int
    guesses: int
    gap: Figure
    noise: float
    chance: float
    tow: Figure
    accuracy: Figure
    relearn: Figure
    klom: Mapping[str, Figure]
    klom_tail: Mapping[str, Figure]
    auc: Figure
    auc_low: Figure
    auc_high: Figure
    tpr_at_one: Figure
    tpr_at_tenth: Figure
    losses: Mapping[str, tuple[float, ...]]
    klom_rows: Mapping[str, tuple[float, ...]]
    roc: Mapping[str, Curve]

    @property
    def telling(self) -> bool:
        """Return whether the audit can tell models that did nothing from oracles.

        There must be eight models, and the two controls must differ, oracles not from each other: in the attack (its
        95 % intervals lie apart) or in the forget-loss gap. Without that a good figure of the strategy would mean
        nothing.
        """
        by_attack = self.auc_low.nothing > max(0.5, self.auc_high.oracle)
        by_gap = abs(self.gap.nothing) > 2 * self.chance and abs(self.gap.oracle) <= 2 * self.chance
        return self.models >= _FEWEST and (by_attack or by_gap)

    @property
    def left(self) -> float:
        """Return which share is left of what models that did nothing know more of the rows than oracles.

        Negative when the strategy's models know less of them than oracles; NaN where nothing is to be known.
        """
        return self.gap.unlearned / self.gap.nothing if self.gap.nothing < -self.chance else math.nan

    @property
    def verdict(self) -> str:
        """Return how surely the strategy's models are told from oracles, by the attack or by the forget-loss gap.

        `inconclusive`; `like the oracle`: no more surely than other oracles; `told apart`: as surely as models that
        did nothing, or more so; `between`. Who is told apart need not remember: a model may differ otherwise, which
        the sign of the gap says.
        """
        if not self.telling:
            return "inconclusive"
        gap, floor = abs(self.gap.unlearned), max(0.5, self.auc_high.oracle)
        if self.auc.unlearned <= floor and gap <= self.chance:
            return "like the oracle"
        by_attack = self.auc.unlearned > floor and self.auc.unlearned >= self.auc_low.nothing
        return "told apart" if by_attack or gap >= max(self.chance, abs(self.gap.nothing)) else "between"


def findings(shards: Sequence[Sequence[Shadow]]) -> Findings:
    """Sum up the shadow models of one or more shards.

    Args:
        shards: Per shard its shadows, numbers 0 to N − 1 in order; the same N ≥ 3 everywhere.

    Returns:
        The figures. Deterministic: intervals are drawn by a seeded generator.

    Raises:
        ValueError: Fewer than three models, or not as many of every shard.
    """
    counts = {len(shadows) for shadows in shards}
    if len(counts) != 1 or min(counts) < 3:
        raise ValueError(f"an audit needs at least three models, as many of every shard; got {sorted(counts)}")
    margins = {
        kind: {rows: _margins(shards, kind, rows) for rows in ("forget", "retain", "unseen")}
        for kind in (*_COMPARED, "reference")
    }
    reference = margins["reference"]
    scores = {kind: measures.u_lira_scores(margins[kind]["forget"], reference["forget"]) for kind in _COMPARED}
    attacks = {kind: measures.attack_of(*pair) for kind, pair in scores.items()}
    intervals = {kind: _auc_interval(*pair) for kind, pair in scores.items()}
    kloms = {kind: {rows: _klom(margins[kind][rows], reference[rows]) for rows in reference} for kind in _COMPARED}
    guesses = int(scores["oracle"][1].size)
    noise = math.sqrt(_mean([(a.loss - b.loss) ** 2 for a, b in _pairs(shards, "oracle")]))

    def rate(allowed: float, of: Callable[[measures.Attack], float]) -> Figure:
        return _figure(lambda kind: of(attacks[kind]) if guesses * allowed >= 1 else math.nan)

    def compared(measure: Callable[[Score, Score], float]) -> Figure:
        # Against the oracle of the same seed; that one against the reference.
        return _figure(lambda kind: _mean([measure(ours, theirs) for ours, theirs in _pairs(shards, kind)]))

    return Findings(
        models=counts.pop(),
        rows=reference["forget"].shape[1],
        guesses=guesses,
        gap=compared(lambda ours, theirs: ours.loss - theirs.loss),
        noise=noise,
        chance=2 * noise / math.sqrt(len(_pairs(shards, "oracle"))),
        tow=compared(_tow),
        accuracy=compared(lambda ours, theirs: ours.accuracies[2] - theirs.accuracies[2]),
        relearn=_figure(lambda kind: _mean([float(s.models[kind].relearn) for shadows in shards for s in shadows])),
        klom={rows: Figure(*(_mean(kloms[kind][rows]) for kind in _COMPARED)) for rows in reference},
        klom_tail={rows: Figure(*(_tail(kloms[kind][rows]) for kind in _COMPARED)) for rows in reference},
        auc=_figure(lambda kind: attacks[kind].auc),
        auc_low=_figure(lambda kind: intervals[kind][0]),
        auc_high=_figure(lambda kind: intervals[kind][1]),
        tpr_at_one=rate(0.01, lambda attack: attack.tpr_at_one),
        tpr_at_tenth=rate(0.001, lambda attack: attack.tpr_at_tenth),
        losses={kind: tuple(s.models[kind].loss for shadows in shards for s in shadows) for kind in margins},
        klom_rows={kind: tuple(np.sort(kloms[kind]["forget"]).tolist()) for kind in _COMPARED},
        roc={kind: curve(*pair) for kind, pair in scores.items()},
    )


@dataclass(frozen=True)
class Served:
    """What one served sub-model says of rows that were really revoked, against models that never saw them.

    Attributes:
        rows: How many rows are looked at.
        gap: Mean loss on them minus the exact oracle's.
        gap_before: The same for the sub-model before their removal (control); NaN when it is gone.
        noise: Standard deviation of that loss over the oracles.
        tow: Tug-of-war score against the exact oracle.
        accuracy: Accuracy on unseen rows minus the exact oracle's.
        relearn: Epochs until the rows are learnt again.
        relearn_oracle: The same for the exact oracle.
        surer: Share of the rows on which it is surer than every oracle; chance is 1 / (oracles + 1).
        surer_before: The same for the sub-model before.
        less_sure: Share of the rows on which it is less sure than every oracle.
        chance: 1 / (oracles + 1).
    """

    rows: int
    gap: float
    gap_before: float
    noise: float
    tow: float
    accuracy: float
    relearn: int
    relearn_oracle: int
    surer: float
    surer_before: float
    less_sure: float
    chance: float


def served(shadows: Sequence[Shadow], sureness: Callable[[F64], F64] = _LOG_ODDS) -> Served | None:
    """Sum up what was watched on one shard.

    Args:
        shadows: Numbers 0 to N − 1 in order, N ≥ 3.
        sureness: Of margins: the larger, the surer a model is; log-odds as they are by default.

    Returns:
        None when no revoked row was there, or rows went meanwhile.
    """
    ours = shadows[0].watched.get("served")
    oracles = [shadow.watched["oracle"] for shadow in shadows if "oracle" in shadow.watched]
    if ours is None or len(oracles) < len(shadows) or len({len(score.forget) for score in (ours, *oracles)}) > 1:
        return None
    exact, before = oracles[0], shadows[0].watched.get("before")
    sure = sureness(np.array([score.forget for score in oracles]))

    def surer(score: Score) -> float:
        return float((sureness(np.array(score.forget)) > sure.max(axis=0)).mean())

    return Served(
        rows=len(ours.forget),
        gap=ours.loss - exact.loss,
        gap_before=before.loss - exact.loss if before else math.nan,
        noise=float(np.std([score.loss for score in oracles], ddof=1)),
        tow=_tow(ours, exact),
        accuracy=ours.accuracies[2] - exact.accuracies[2],
        relearn=ours.relearn,
        relearn_oracle=exact.relearn,
        surer=surer(ours),
        surer_before=surer(before) if before else math.nan,
        less_sure=float((sureness(np.array(ours.forget)) < sure.min(axis=0)).mean()),
        chance=1 / (len(oracles) + 1),
    )


def curve(positives: F64, negatives: F64) -> Curve:
    """Return a ROC curve thinned to about 200 points, spread evenly over the logarithm of the false-positive rate."""
    false, true = measures.roc(positives, negatives)
    wanted = np.geomspace(1 / max(2, negatives.size), 1.0, _CURVE_POINTS)
    kept = sorted({0, *(int(at) - 1 for at in np.searchsorted(false, wanted, side="right")), len(false) - 1})
    return Curve(tuple(false[kept].tolist()), tuple(true[kept].tolist()))


def _margins(shards: Sequence[Sequence[Shadow]], kind: str, rows: str) -> F64:
    """Return margins [N, rows of all shards]."""
    parts = [np.array([getattr(s.models[kind], rows) for s in shadows], dtype=np.float64) for shadows in shards]
    return np.concatenate(parts, axis=1)


def _pairs(shards: Sequence[Sequence[Shadow]], kind: str) -> list[tuple[Score, Score]]:
    against = "reference" if kind == "oracle" else "oracle"
    return [(s.models[kind], s.models[against]) for shadows in shards for s in shadows]


def _klom(ours: F64, references: F64) -> F64:
    return measures.klom(ours, references) if ours.shape[1] else np.empty(0)


def _auc_interval(positives: F64, negatives: F64) -> tuple[float, float]:
    """Return the 95 % interval of an attack's AUC: models are drawn again: rows of one model hang together."""
    random = np.random.default_rng(0)
    count = len(positives)
    drawn = [random.integers(0, count, count) for _ in range(_RESAMPLES)]
    found = [measures.attack_auc(-positives[chosen].ravel(), -negatives[chosen].ravel()) for chosen in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _figure(of: Callable[[str], float]) -> Figure:
    return Figure(*(of(kind) for kind in _COMPARED))


def _tow(ours: Score, theirs: Score) -> float:
    """Return the tug-of-war score; without unseen rows, of the other two."""
    forget, retain, unseen = zip(ours.accuracies, theirs.accuracies, strict=True)
    return measures.tow(forget, retain, (1.0, 1.0) if math.isnan(unseen[0]) else unseen)


def _mean(values: Sequence[float] | F64) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _tail(values: F64) -> float:
    return float(np.percentile(values, 95)) if len(values) else math.nan
