"""Cost of other code or other libraries: checkpoints that a retrain can't start from any more.

Such a checkpoint has another lineage key than a new run would give it, so the first deletion in its shard retrains
the whole shard, which makes its checkpoints again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from hybridmu.kinds import FALLBACK
from hybridmu.planning.checkpoint_retention import ShardCheckpoints, expected, total
from hybridmu.planning.cost import CostModel


@dataclass(frozen=True, slots=True)
class Package:
    """One library that the upgrade changes.

    Attributes:
        name: As registries write it.
        installed: Its version here; None when it is not installed.
        wanted: Its version after the upgrade.
        shapes: Whether it is part of what names a checkpoint.
    """

    name: str
    installed: str | None
    wanted: str
    shapes: bool


@dataclass(frozen=True, slots=True)
class ShardUpgrade:
    """Cost of the upgrade for one shard.

    Attributes:
        shard: Its number.
        kept: Checkpoints that a retrain can still start from, the last included.
        lost: Those it can't.
        visits_before: Expected visits of retraining after one of its rows is deleted, as if nothing had changed.
        visits_after: The same after the upgrade, for the first deletion.
        seconds_before: The former in seconds on one worker.
        seconds_after: The latter.
    """

    shard: int
    kept: int
    lost: int
    visits_before: float
    visits_after: float
    seconds_before: float
    seconds_after: float


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """Cost of an upgrade.

    Attributes:
        packages: What is assumed to change; empty: storage is compared with what is installed here.
        shards: One entry per shard that has checkpoints.
        kept: Checkpoints kept, over all shards.
        lost: Checkpoints lost.
        visits_before: Expected visits of retraining after the next deletion, uniform over all live rows.
        visits_after: The same after the upgrade.
        seconds_before: The former in seconds on one worker.
        seconds_after: The latter.
        visits_anew: What retraining every shard that loses checkpoints takes, once.
        seconds_anew: The same in seconds on one worker.
        tables: Files that an earlier release wrote, and this one rewrites once; no bit that is trained on changes.
        encoders: Derived columns whose encoder is another one here than the stored rows had, or can't be had.
    """

    packages: tuple[Package, ...]
    shards: tuple[ShardUpgrade, ...]
    kept: int
    lost: int
    visits_before: float
    visits_after: float
    seconds_before: float
    seconds_after: float
    visits_anew: int
    seconds_anew: float
    tables: int = 0
    encoders: tuple[str, ...] = ()

    def explain(self) -> str:
        """Return the plan as sentences, then one line per shard."""
        shaping = [p for p in self.packages if p.shapes]
        changed = ", ".join(f"{p.name} {p.wanted} (here: {p.installed or 'not installed'})" for p in shaping)
        if changed or not self.packages:
            where = f"With {changed}" if changed else "With the code and libraries installed here"
        else:
            where = "With these packages"
        lines = [
            f"{where}, {self.lost} of {self.lost + self.kept} checkpoint(s) are lost: no retrain can start from them."
            if self.lost
            else f"{where}, no checkpoint is lost."
        ]
        if self.lost:
            hit = sum(shard.lost > 0 for shard in self.shards)
            lines += [
                "The live sub-models stay and go on answering; their bits can't be proven there by a new training.",
                f"The next deletion of one row is expected to retrain {self.visits_after:,.0f} sample visits "
                f"({self.seconds_after:.3g} s on one worker) instead of {self.visits_before:,.0f} "
                f"({self.seconds_before:.3g} s). The first one in a shard makes its checkpoints again.",
                f"Retraining the {hit} shard(s) that lose checkpoints takes {self.visits_anew:,} sample visits "
                f"({self.seconds_anew:.3g} s on one worker), once.",
            ]
        if self.tables:
            lines.append(
                f"{self.tables} table file(s) of an earlier release are rewritten once, by the next coordinator or by "
                "`hybridmu upgrade`: they may keep values of rows that are gone. Until then no purge is certified; "
                "rows, weights and certificates stay as they are."
            )
        if self.encoders:
            lines.append(
                f"Another encoder than here made the stored features of {', '.join(self.encoders)}: new rows and "
                "questions are refused until it is put back. Deletions go on, and no checkpoint is lost by it. To use "
                "the new one make a successor, `hybridmu reshard`: it encodes every stored row again, is trained, "
                "and is linked with this model."
            )
        for package in self.packages:
            if not package.shapes:
                lines.append(f"{package.name} is not part of what names a checkpoint.")
        lines += [
            f"shard {s.shard}: {s.kept} kept, {s.lost} lost; first deletion {s.visits_after:,.0f} visits, "
            f"{s.seconds_after:.3g} s (before: {s.visits_before:,.0f}, {s.seconds_before:.3g} s)"
            for s in self.shards
        ]
        return "\n".join(lines)


def plan_upgrade(
    shards: Sequence[ShardCheckpoints], lost: Collection[int], cost: CostModel, packages: Sequence[Package] = ()
) -> UpgradePlan:
    """Count what an upgrade costs.

    Args:
        shards: One entry per shard that has checkpoints, as they are without the upgrade.
        lost: Shards whose checkpoints would have other lineage keys.
        cost: Visits to seconds.
        packages: What is assumed to change.

    Returns:
        The plan.
    """

    def seconds(work: tuple[float, float]) -> float:
        return cost.estimate(FALLBACK, round(work[0]), round(work[1])).seconds

    made = []
    for shard in shards:
        rows, kept = max(1, sum(shard.rows)), sum(shard.existing)
        gone = kept if shard.shard in lost else 0
        old, new = (_mean(expected(s, _there(s)), rows) for s in (shard, _after(shard, lost)))
        made.append(ShardUpgrade(shard.shard, kept - gone, gone, old[0], new[0], seconds(old), seconds(new)))
    live = max(1, sum(sum(shard.rows) for shard in shards))
    before = _mean(total(expected(s, _there(s)) for s in shards), live)
    after = _mean(total(expected(_after(s, lost), _there(s)) for s in shards), live)
    anew = [shard for shard in shards if shard.shard in lost]
    visits_anew = sum(shard.full_visits for shard in anew)
    return UpgradePlan(
        packages=tuple(packages),
        shards=tuple(made),
        kept=sum(shard.kept for shard in made),
        lost=sum(shard.lost for shard in made),
        visits_before=before[0],
        visits_after=after[0],
        seconds_before=seconds(before),
        seconds_after=seconds(after),
        visits_anew=visits_anew,
        seconds_anew=seconds((visits_anew, sum(len(shard.rows) for shard in anew))),
    )


def _there(shard: ShardCheckpoints) -> set[int]:
    return {i for i, exists in enumerate(shard.existing, start=1) if exists}


def _after(shard: ShardCheckpoints, lost: Collection[int]) -> ShardCheckpoints:
    return replace(shard, clean=0) if shard.shard in lost else shard


def _mean(work: tuple[float, float], rows: int) -> tuple[float, float]:
    return work[0] / rows, work[1] / rows
