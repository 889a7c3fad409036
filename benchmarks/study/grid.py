"""Grids of the study: datasets and models, request mixes, strategies, and the grids made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hybridmu.config import Settings
from hybridmu.core.kernel.partition import derive
from hybridmu.datasets import catalog


@dataclass(frozen=True)
class Setup:
    """A dataset, a model, and how it is trained.

    Attributes:
        dataset: Built-in name.
        model: Built-in task.
        options: Arguments of the task.
        shards: S.
        slices: R.
        epochs: Plain-training epochs.
        batch_size: B.
        lr: Rate at the start of a slice.
        rows: Only the first so many training rows, to fit a small machine; None: all.
        test_rows: At most so many test rows are scored.
        sparing: Of a mix that fewer seeds run, only the first so many do; None: all of them.
        policy: What else than the defaults the planner is told.
    """

    dataset: str
    model: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    shards: int = 8
    slices: int = 5
    epochs: int = 20
    batch_size: int = 32
    lr: float = 0.1
    rows: int | None = None
    test_rows: int = 10_000
    sparing: int | None = None
    policy: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Return how tables and `--setups` name it."""
        return f"{self.dataset}/{self.model}"

    def has(self, mix: str) -> bool:
        """Return whether a mix exists here: slices end at R, and some datasets name no people."""
        kind, *values = mix.split(":")
        if kind == "users":
            return "group" in catalog.describe(self.dataset).fields
        return kind != "from" or int(values[0]) <= self.slices


@dataclass(frozen=True)
class Contender:
    """A strategy as the study runs it.

    Attributes:
        name: As CSV rows name it.
        runs: Name in the registry of strategies; `auto` lets the planner choose, `` runs nothing.
        alpha: Step of the subtraction; None: the calibrated one.
        about: One line for the tables.
        finetunes: Whether it spends the budget of fine-tuning.
        seeds: Only the first so many of a grid's; None: all.
    """

    name: str
    runs: str
    about: str
    alpha: float | None = None
    finetunes: bool = False
    seeds: int | None = None


@dataclass(frozen=True)
class Grid:
    """Setups × mixes × strategies × seeds.

    Attributes:
        setups: Systems.
        mixes: Request mixes.
        contenders: Strategies and baselines.
        seeds: One system each.
        repeats: How often a strategy of the product is run on each; the medians of its times count.
        fewer: Mixes that only the first so many seeds run.
    """

    setups: tuple[Setup, ...]
    mixes: tuple[str, ...]
    contenders: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: int = 1
    fewer: Mapping[str, int] = field(default_factory=dict, hash=False)

    def seeds_of(self, setup: Setup, mix: str, contender: str) -> tuple[int, ...]:
        """Return the seeds that a mix and a contender are run on."""
        seeds = self.seeds[: CONTENDERS[contender].seeds]
        return seeds[: self.fewer[mix]][: setup.sparing] if mix in self.fewer else seeds


_PICTURE_CNN = {"width": 8, "stages": 3}
# A shard has 1,350 rows: with larger batches a convolutional network takes too few steps to learn anything from them.
# Ten epochs leave no room for two of fine-tuning, if an update is to be eight times faster (docs/log.md has what less
# costs, on another seed); gaps vary so much that canaries of two shards tell little. A deletion takes two minutes, so
# what no goal is set for has one seed.
_REDUCED: dict[str, Any] = {
    "shards": 4,
    "epochs": 10,
    "batch_size": 8,
    "policy": {"finetune_epochs": 0.6, "calibration_shards": 3, "quality_noises": 2.0},
    "rows": 6_000,
    "test_rows": 3_000,
    "sparing": 1,
}
SETUPS = {
    setup.name: setup
    for setup in (
        Setup("digits", "mlp", {"hidden": [64]}, shards=4, slices=3),
        Setup("mnist5k", "mlp", {"hidden": [128]}),
        Setup("adult", "mlp", {"hidden": [128]}, epochs=10, lr=0.02),
        Setup("mnist", "mlp", {"hidden": [128]}, epochs=10),
        Setup("census", "mlp", {"hidden": [128]}, epochs=5, batch_size=64, lr=0.02),
        Setup("hapt", "mlp", {"hidden": [64]}, shards=4, slices=2, epochs=10, lr=0.02),
        Setup("mnist", "cnn", {"shape": [1, 28, 28], **_PICTURE_CNN}, **_REDUCED),
        Setup("cifar10", "cnn", {"shape": [3, 32, 32], **_PICTURE_CNN}, **_REDUCED),
    )
}

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("scratch", "scratch", "retrain every shard from scratch"),
        Contender("sisa", "retrain", "always retrain the touched shards from their last clean checkpoint"),
        Contender("hybrid", "auto", "the planner chooses per shard"),
        Contender("dpus-raw", "dpus", "plain subtraction, step 1", alpha=1.0),
        Contender("dpus", "dpus", "plain subtraction, calibrated step"),
        Contender("dpus-optimised", "dpus-optimised", "calibrated subtraction, then fine-tuning", finetunes=True),
        Contender("dpus-newton", "dpus-newton", "subtraction damped by curvature; nothing calibrated, no fine-tuning"),
        Contender("rewind", "rewind", "the clean checkpoint, then the budget of fine-tuning", finetunes=True),
        Contender(
            "amnesiac",
            "amnesiac",
            "subtract every batch that held a revoked row, then fine-tune",
            alpha=1.0,
            finetunes=True,
            seeds=2,  # each is a training to replay, and it is off by nats
        ),
        Contender("fine-tune", "fine-tune", "fine-tune on the live rows", alpha=0.0, finetunes=True),
        Contender("nothing", "", "keep the model as it is (control)"),
        Contender("oracle-again", "scratch", "retrain with another order of the data (control)"),
    )
}

# Goals are set for the first, so they have all seeds; a stream takes several times as long as another deletion.
_AIMED = ("rows:1", "users:1", "share:0.01", "share:0.05", "share:0.1")
_OTHERS = ("share:0.001", "users:10", "touch:0.5", "touch:0.9", "class:1", "skewed:0.02")
_STREAM = "stream:200"
_ALL = tuple(CONTENDERS)
_PRICED = ("sisa", "hybrid", "dpus", "dpus-optimised", "dpus-newton", "rewind")
_BOUNDARY = (SETUPS["mnist5k/mlp"], SETUPS["adult/mlp"])

GRIDS = {
    "smoke": Grid((SETUPS["digits/mlp"],), ("rows:1", "share:0.05"), _ALL, (0,)),
    "headline": Grid(
        tuple(setup for name, setup in SETUPS.items() if name != "digits/mlp"),
        (*_AIMED, *_OTHERS, _STREAM),
        _ALL,
        tuple(range(5)),
        fewer={**dict.fromkeys(_OTHERS, 2), _STREAM: 1},
    ),
    # What the reduced networks' four shards can't reach.
    "singles": Grid(
        tuple(replace(SETUPS[name], shards=8) for name in ("mnist/cnn", "cifar10/cnn")),
        ("rows:1", "users:1"),
        ("scratch", "sisa"),
        tuple(range(5)),
    ),
    # Two halves of boundary.csv: systems of other shapes, and deletions of other sizes.
    "boundary": Grid(
        tuple(
            replace(base, shards=shards, slices=slices, epochs=epochs)
            for base in _BOUNDARY
            for shards, slices, epochs in (
                (base.shards, base.slices, base.epochs),
                (4, base.slices, base.epochs),
                (16, base.slices, base.epochs),
                (base.shards, 2, base.epochs),
                (base.shards, 10, base.epochs),
                (base.shards, base.slices, base.epochs // 4),
                (base.shards, base.slices, 2 * base.epochs),
            )
        ),
        tuple(f"from:{first}:0.01" for first in (1, 2, 3, 5, 8, 10)),
        _PRICED,
        (0, 1),
        repeats=3,
    ),
    "sizes": Grid(
        _BOUNDARY,
        tuple(f"from:{first}:{share}" for first in (1, 3, 5) for share in (0.002, 0.05, 0.1)),
        _PRICED,
        (0, 1),
        repeats=3,
    ),
}


def settings_of(setup: Setup, seed: int, folder: Path) -> Settings:
    """Return the configuration of one system; a built-in dataset is resolved, and cut to `setup.rows`.

    Args:
        setup: Dataset and model.
        seed: Everything random in it.
        folder: Its storage is made inside.

    Returns:
        Settings. `policy.light_seconds` is 0: these systems are small, and the rule that retrains whatever takes less
        than a second would retrain everything.
    """
    sisa = {"shards": setup.shards, "slices": setup.slices, "epochs": setup.epochs, "batch_size": setup.batch_size}
    raw: dict[str, Any] = {
        "data": {"name": setup.dataset, "validation_fraction": 0.1},
        "task": {"name": setup.model, **setup.options},
        "sisa": {**sisa, "seed": seed},
        "optimizer": {"name": "sgd", "lr": setup.lr},
        "policy": {"light_seconds": 0.0, **setup.policy},
        "cluster": {"cpus_per_shard": 1},
    }
    place = f"{setup.dataset}-{setup.model}-{seed}-{derive(json.dumps([raw, setup.rows], sort_keys=True)):016x}"
    settings = Settings.parse({**raw, "storage_url": str(folder / place)})
    data = catalog.resolve(settings.data)
    if setup.rows is not None:
        data = data.model_copy(update={"train": str(_first_rows(data.train, setup.rows, folder, setup.dataset))})
    return settings.model_copy(update={"data": data})


def _first_rows(train: str, rows: int, folder: Path, name: str) -> Path:
    target = folder / f"{name}-{rows}.parquet"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(train).slice(0, rows), target, row_group_size=5_000)
    return target
