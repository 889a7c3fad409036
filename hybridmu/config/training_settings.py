"""Settings of training: shards and slices, optimizer, compute, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hybridmu.config.one_of import OneOf
from hybridmu.config.section import Section
from hybridmu.kinds import LEARNERS, PARTITIONERS


class SisaSettings(Section):
    """Shards, slices and the schedule.

    Where there is no section `optimizer`, what is left out here suits the rows of the table
    (`planning.default_settings`); a trained system keeps what it has.

    Attributes:
        shards: S.
        slices: R.
        epochs: e′, plain-training epochs; slice i gets about 2e′/(R+1) of them, at least one.
        batch_size: B.
        seed: Everything random is derived from it; any whole number of 64 bits.
        min_rows: Training rows that a shard of a new system has at least, in the mean; a table with fewer is refused
            before anything is stored, since a sub-model learns next to nothing from a handful of rows.
    """

    shards: int = Field(8, ge=1, le=100_000)
    slices: int = Field(5, ge=1, le=1000)
    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(64, ge=1, le=10_000_000)
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    min_rows: int = Field(16, ge=0, le=10**12)


class LearnerSettings(Section):
    """How a shard's rows become a sub-model.

    Attributes:
        name: A registered learner.
    """

    name: Annotated[str, OneOf(LEARNERS.names)] = LEARNERS.default


class PartitionerSettings(Section):
    """How rows are placed in shards and slices.

    Attributes:
        name: A registered partitioner.
    """

    name: Annotated[str, OneOf(PARTITIONERS.names)] = PARTITIONERS.default


class OptimizerSettings(Section):
    """Optimizer of a slice. State is reset at every slice.

    A new system without this section gets an AdamW, and what suits its rows of all else that it leaves out
    (`planning.default_settings`); with it, what is left out has the values below.

    Attributes:
        name: `sgd`, or `adamw`.
        lr: Rate at the start of a slice; 0.004 where `adamw` is named alone.
        momentum: Of sgd.
        weight_decay: L2 (sgd) or decoupled (adamw).
        schedule: `linear` decays to 0 within each slice; `constant`.
        extrapolation: For very large batches, of sgd alone: take each part's gradient (`compute.parts`) so many steps
            ahead of the weights, along that part's last one (extrapolated SGD); 0 is plain SGD.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1000)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=1000)
    schedule: Literal["linear", "constant"] = "linear"
    extrapolation: float = Field(0.0, ge=0, le=1000)


class ComputeSettings(Section):
    """Computation of a training step. Each choice gives other bits, always the same ones; checkpoints name it.

    Attributes:
        precision: `bfloat16` multiplies matrices in half the width, which pays on GPUs that have it; weights, losses
            and updates stay float32.
        compile: Compile the step with `torch.compile`, as a CUDA graph on a GPU. Every slice compiles first, for
            up to a minute: for large models and long training only.
        parts: Into how many parts a batch is cut, whose gradients are summed in order. On Ray each part is a process of
            its own with `cluster.cpus_per_shard` and `cluster.gpus_per_shard`, for shards that are too much for one
            device (`cluster.wide` says how); in one process the parts follow each other and give the same bits.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    parts: int = Field(1, ge=1, le=4096)


class CheckpointSettings(Section):
    """Budget of checkpoints; a deletion retrains from the last one that never saw its rows.

    Attributes:
        budget_bytes: Bytes of all checkpoints of the served version; beyond it those go whose loss costs least. The
            live sub-models among them always stay. Null: all are kept.
    """

    budget_bytes: int | None = Field(None, ge=0, le=10**15)
