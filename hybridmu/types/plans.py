"""Plans: what the planner knows of a shard, what it decides, and what costs are learned from."""

from __future__ import annotations

from dataclasses import dataclass

from hybridmu.types.calibration import CalibrationEstimate
from hybridmu.types.names import StrategyName
from hybridmu.types.quality import ExpectedFit, ExpectedQuality


@dataclass(frozen=True, slots=True)
class ShardStats:
    """What the planner knows of one touched shard.

    Attributes:
        shard: Its number, 0-based.
        epochs: e_i, epochs that each slice is trained for once `revoked` is out.
        rows: n_{s,i}, rows in the last exact model, per slice.
        revoked: |U_{s,i}|, those not yet removed exactly, per slice (all open deletions together).
        newly_revoked: Those of `revoked` that no approximate update has removed yet, per slice.
        clean: Whether the checkpoint after slice i exists for the live rows without `revoked`.
        trajectory: Whether every checkpoint of the last exact run exists (the approximate update needs them).
        error_spent: Predicted forget-loss error of approximate removals since the last exact retrain.
        class_excess: By how much the share of one class's rows that is revoked exceeds that of all rows, beyond chance,
            for the worst class; None: nobody looked.
    """

    shard: int
    epochs: tuple[int, ...]
    rows: tuple[int, ...]
    revoked: tuple[int, ...]
    newly_revoked: tuple[int, ...]
    clean: tuple[bool, ...]
    trajectory: bool = True
    error_spent: float = 0.0
    class_excess: float | None = None

    @property
    def live(self) -> int:
        """Rows left after the removal."""
        return sum(self.rows) - sum(self.revoked)


@dataclass(frozen=True, slots=True)
class Workload:
    """What each strategy has to do on one shard.

    Attributes:
        first_touched: First slice with a revoked row; R + 1 when none.
        first_trained: Where a retrain starts; R + 1 when nothing is to be trained.
        retrain_visits: W_s(U).
        full_visits: W_s of training the whole shard without U.
        first_new: First slice with a newly revoked row, where an update starts; R + 1 when none.
        gradient_visits: Σ_{i ≥ first_new} |new U up to i| + |new U|, gradients of the update.
    """

    first_touched: int
    first_trained: int
    retrain_visits: int
    full_visits: int
    first_new: int
    gradient_visits: int

    @property
    def ratio(self) -> float:
        """Return ρ = retrain_visits / full_visits; 0 for an emptied shard."""
        return self.retrain_visits / self.full_visits if self.full_visits else 0.0


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What will happen to one shard, and why.

    Attributes:
        shard: Shard number.
        strategy: Chosen strategy.
        first_slice: First slice that is trained again (R + 1 when none is).
        revoked: Rows to remove.
        sample_visits: Training visits of the chosen strategy (retrain: W_s; update: gradients and fine-tuning).
        workload_ratio: ρ_s, retraining visits over those of the whole shard.
        estimated_seconds: Predicted seconds on one worker.
        interval: Lower and upper bound of the prediction.
        alternatives: Strategy → predicted seconds, for every one that was available.
        rule: The rule that decided.
        reasons: Sentences with the numbers, in the order in which the rules were asked.
        alpha: Step of the approximate subtraction; 0 for a retrain.
        predicted_error: Forget-loss error that the approximate update adds to the shard's account.
        calibration: What canaries say of the update that was chosen or weighed; None: it was never calibrated.
    """

    shard: int
    strategy: StrategyName
    first_slice: int
    revoked: int
    sample_visits: int
    workload_ratio: float
    estimated_seconds: float
    interval: tuple[float, float]
    alternatives: tuple[tuple[str, float], ...]
    rule: str
    reasons: tuple[str, ...]
    alpha: float = 0.0
    predicted_error: float = 0.0
    calibration: CalibrationEstimate | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A frozen decision over all touched shards; `shards` is in dispatch order, longest first."""

    shards: tuple[ShardPlan, ...]
    makespan_seconds: float
    workers: int
    updaters: int
    warnings: tuple[str, ...] = ()
    quality: ExpectedQuality | ExpectedFit | None = None

    def explain(self) -> str:
        """Return the whole plan as text, one block per shard."""
        lines = [
            f"{len(self.shards)} shard(s), about {self.makespan_seconds:.2f} s on {self.workers} worker(s) "
            f"and {self.updaters} updater(s)"
        ]
        for shard in self.shards:
            low, high = shard.interval
            lines.append(
                f"shard {shard.shard}: {shard.strategy} by the {shard.rule} rule, {shard.revoked} row(s), "
                f"from slice {shard.first_slice}, {shard.sample_visits} visits, "
                f"{shard.estimated_seconds:.3f} s [{low:.3f}, {high:.3f}]"
            )
            lines += [f"  - {reason}" for reason in shard.reasons]
        lines += [f"quality: {self.quality.explain()}"] if self.quality else []
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


@dataclass(frozen=True, slots=True)
class CostObservation:
    """A measured outcome the cost model learns from.

    Attributes:
        strategy: What ran.
        visits: Sample visits made.
        checkpoints: Checkpoints read and written.
        seconds: Wall time on the worker, I/O included.
        rows: Rows read from storage: the live ones for an update and the first retrain of a process, later none.
    """

    strategy: str
    visits: int
    checkpoints: int
    seconds: float
    rows: int = 0
