"""Large batches: plain SGD against extrapolated SGD (arXiv 2006.05720), each at its best rate.

One shard, one slice, batches in eight parts, momentum 0.9, a rate that decays to 0. For every size of batch and either
way, the rate (and how far ahead) is chosen by the validation rows of seed 0; the test rows of other seeds are what
counts. The setup's own small batch, at its own rate, is what both are measured by. Training is a function of the seed:
how long a run took is no part of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.study import csvfile
from benchmarks.study.grid import SETUPS, Setup, settings_of
from benchmarks.study.records import environment
from hybridmu.core import evaluation
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe, train_slice
from hybridmu.errors import DivergedError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.ingest import ingest
from hybridmu.types import NO_KEYS

PARTS = 8
FASTER_RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
STEPS = {"plain": (0.0,), "extrapolated": (0.5, 1.0, 2.0)}
BATCHES = {"mnist/mlp": (512, 2048, 8192), "cifar10/cnn": (1024,)}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        setup: Dataset and model.
        batch: Rows of a batch.
        way: `small` (the setup's own), `plain` or `extrapolated`.
        seed: Of everything random; 0 is for choosing rates.
        rate: Learning rate at the start.
        steps: How many steps ahead the gradient of a part is taken.
        rows: Of training.
        epochs: Over them.
        validation: Accuracy there; 0 where a weight became infinite.
        accuracy: On the test rows.
        hardware: Of this machine.
        versions: Of torch, numpy and Python.
        commit: Of the code; `+` marks uncommitted changes.
    """

    setup: str
    batch: int
    way: str
    seed: int
    rate: float
    steps: float
    rows: int
    epochs: int
    validation: float
    accuracy: float
    hardware: str
    versions: str
    commit: str

    @property
    def key(self) -> tuple[object, ...]:
        """Return what is run once."""
        return (self.setup, self.batch, self.way, self.seed, f"{self.rate:g}", f"{self.steps:g}")


def measure(name: str, out: Path, folder: Path, seeds: int, say: Callable[[str], None]) -> None:
    """Make the runs of one setup that are not in the file yet.

    Args:
        name: The setup.
        out: CSV file, appended to.
        folder: Where tables are kept.
        seeds: How many after the one that chooses.
        say: Called with a line per run.
    """
    known = {run.key for run in csvfile.read(out, Run)}
    setup = replace(SETUPS[name], shards=1, slices=1)
    for seed in range(seeds + 1):
        plan = [p for p in _planned(setup, seed, csvfile.read(out, Run)) if _key(name, seed, p) not in known]
        if not plan:
            continue
        site = Site(settings_of(setup, seed, folder))
        site.configure_torch()
        ingest(site.lake)
        for batch, way, rate, steps in plan:
            run = _run(site, setup, seed, batch, way, rate, steps)
            csvfile.append(out, [run], Run)
            say(f"{name} batch {batch} {way} seed {seed} rate {rate:g} steps {steps:g}: {run.accuracy:.4f}")


Planned = tuple[int, str, float, float]


def _planned(setup: Setup, seed: int, made: list[Run]) -> Iterator[Planned]:
    """Yield the runs of a seed: for the first all rates of all ways, for the others the best."""
    yield setup.batch_size, "small", setup.lr, 0.0
    for batch, (way, steps) in product(BATCHES[setup.name], STEPS.items()):
        if seed == 0:
            for faster, far in product(FASTER_RATES, steps):
                yield batch, way, setup.lr * faster, far
        else:
            found = chosen(made, setup.name, batch, way)
            yield batch, way, found.rate, found.steps


def chosen(made: list[Run], setup: str, batch: int, way: str) -> Run:
    """Return the run of seed 0 that is best on validation rows; the lower rate where two are."""
    mine = [run for run in made if (run.setup, run.batch, run.way, run.seed) == (setup, batch, way, 0)]
    return max(mine, key=lambda run: (run.validation, -run.rate, -run.steps))


def _key(name: str, seed: int, planned: Planned) -> tuple[object, ...]:
    batch, way, rate, steps = planned
    return (name, batch, way, seed, f"{rate:g}", f"{steps:g}")


def _run(site: Site, setup: Setup, seed: int, batch: int, way: str, rate: float, steps: float) -> Run:
    own = site.recipe_for(0)
    large = replace(own, batch_size=batch, lr=rate, parts=PARTS, momentum=0.9, extrapolation=steps)
    live = site.lake.rows("train", 0, NO_KEYS)
    unseen, test = (site.lake.rows(split, 0, NO_KEYS) for split in ("validation", "test"))
    model = _fitted(site, live, own if way == "small" else large)
    return Run(
        setup.name,
        batch,
        way,
        seed,
        rate,
        steps,
        len(live),
        own.epochs[0],
        _accuracy(model, unseen),
        _accuracy(model, test),
        **environment(),
    )


def _fitted(site: Site, live: Rows, recipe: Recipe) -> SubModel | None:
    model = site.fresh_model(0)
    try:
        train_slice(model, live, 1, recipe, site.task, 0)
    except DivergedError:
        return None
    return model.eval()


def _accuracy(model: SubModel | None, rows: Rows) -> float:
    if model is None:
        return 0.0
    with torch.no_grad():
        return float((evaluation.logits_of(model, rows, 2).argmax(dim=1) == rows.y).float().mean())


HEAD = ("system", "batch", "SGD", "rate", "steps ahead", "seeds", "test accuracy [lowest, highest]")


def lines(folder: Path) -> Sequence[Sequence[str]]:
    """Return the table: test accuracy over the seeds that chose nothing."""
    made = csvfile.read(folder / "batches.csv", Run)
    found = []
    for setup, batch, way in dict.fromkeys((run.setup, run.batch, run.way) for run in made):
        best = chosen(made, setup, batch, way)
        mine = [
            run.accuracy
            for run in made
            if (run.setup, run.batch, run.way) == (setup, batch, way)
            and run.seed
            and (run.rate, run.steps) == (best.rate, best.steps)
        ]
        if len(mine) > 1:
            steps = f"{best.steps:g}" if way == "extrapolated" else ""
            found.append((
                setup,
                str(batch),
                way,
                f"{best.rate:g}",
                steps,
                str(len(mine)),
                f"{statistics.mean(mine):.4f} [{min(mine):.4f}, {max(mine):.4f}]",
            ))
    return found
