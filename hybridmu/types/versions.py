"""Versions: what a shard and the whole model were made of at some time."""

from __future__ import annotations

from dataclasses import dataclass

from hybridmu.types.names import StrategyName


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One checkpoint of one sub-model: after which slice, under which lineage, in which blob."""

    slice: int
    lineage_key: str
    blob: str
    visits: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PastSubModel:
    """A shard's sub-model, the version that brought it, and the strategy that made it."""

    version: int
    strategy: StrategyName
    sub: SubModelRecord


@dataclass(frozen=True, slots=True)
class SubModelRecord:
    """The state of one shard inside a version.

    Attributes:
        shard: Shard number.
        blob: Weights; None for an emptied shard.
        exact: Whether the weights equal a from-scratch training on the live rows.
        removed_upto: Tombstones of this shard with seq ≤ this are out, exactly or approximately.
        exact_upto: Tombstones with seq ≤ this were out in the last exact run.
        checkpoints: Those of the last exact run that were there when it ended, in slice order.
        error_spent: Predicted error of approximate removals since the last exact run.
        head: Hash of the code, libraries, hyper-parameters and machine of the last exact run.
        generations: How many generations of rows the last exact run was made of.
    """

    shard: int
    blob: str | None
    exact: bool
    removed_upto: int
    exact_upto: int
    checkpoints: tuple[SliceRecord, ...]
    error_spent: float = 0.0
    head: str | None = None
    generations: int = 1

    def trajectory(self, slices: int) -> tuple[str, ...]:
        """Return the blobs of the last exact run, slice 1 first; empty unless all of them are known."""
        return tuple(record.blob for record in self.checkpoints) if len(self.checkpoints) == slices else ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable version: one sub-model per shard, in shard order."""

    version: int
    created_at: float
    shards: tuple[SubModelRecord, ...]
