"""Running a grid: what is missing in the CSV is measured and appended, one deletion at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.studies import records
from jobs.studies.grid import Grid, Setup
from jobs.studies.measure import Judge
from jobs.studies.mixes import Outline
from jobs.studies.pool import Pool
from jobs.studies.records import Key
from jobs.studies.stream import STREAMED
from jobs.studies.world import open_site, prepare

# What one deletion costs, in trainings of the touched shards, besides the contenders that are no retrain: the oracle,
# its twin in another order, the exact retrain, and the replay for amnesiac unlearning.
_RETRAINS = 4.0
# What an update costs, in trainings of the touched shards; and calibration, in trainings of the whole system.
_UPDATE, _CALIBRATION = 0.2, 4.0
# Scoring and reading rows, over the time of the jobs themselves.
_OVERHEAD = 1.3


@dataclass(frozen=True)
class Cell:
    """One deletion on one system, with the contenders that are missing."""

    setup: Setup
    mix: str
    seed: int
    contenders: tuple[str, ...]


def missing(grid: Grid, known: set[Key]) -> list[Cell]:
    """Return what a grid still lacks, cells of one system together, seed after seed."""
    cells = []
    for seed in grid.seeds:
        for setup in grid.setups:
            for mix in grid.mixes:
                fitting = [n for n in grid.contenders if not mix.startswith("stream:") or n in STREAMED]
                names = [n for n in fitting if key_of(setup, mix, n, seed) not in known]
                cells += [Cell(setup, mix, seed, tuple(names))] if names else []
    return cells


def key_of(setup: Setup, mix: str, contender: str, seed: int) -> Key:
    """Return how a CSV row names a measurement."""
    described = (setup.dataset, setup.model, setup.shards, setup.slices, setup.epochs)
    return records.named(described, mix, contender, seed)


def expected_hours(cells: Sequence[Cell], folder: Path, pool: Pool) -> float:
    """Return how long cells will take, from what a visit costs: one epoch over a slice of each kind of system.

    Args:
        cells: What is to be run.
        folder: Where systems are kept; their rows are read here if they were not yet.
        pool: Measures.

    Returns:
        Hours; good to a factor of two.
    """
    seconds = 0.0
    rates: dict[str, float] = {}
    rows: dict[str, int] = {}
    for setup, seed in {(cell.setup, cell.seed): None for cell in cells}:
        if setup.name not in rates:
            site = open_site(setup, seed, folder)
            rows[setup.name] = site.lake.manifest.training_rows
            taken, visits = pool.run(site.settings, [(0, "probe", (0,))])[0]
            rates[setup.name] = taken / max(1, visits)
        full = rates[setup.name] * rows[setup.name] * setup.epochs
        mine = [cell for cell in cells if (cell.setup, cell.seed) == (setup, seed)]
        seconds += full * (1 + _CALIBRATION)
        for cell in mine:
            updates = len(set(cell.contenders) - {"scratch", "oracle-again", "sisa", "nothing"})
            seconds += full * _touched(cell.mix, setup) * (_RETRAINS + _UPDATE * updates)
    return seconds * _OVERHEAD / 3600 / pool.workers


def run(cells: Sequence[Cell], folder: Path, pool: Pool, out: Path, say: Callable[[str], None]) -> Iterator[Cell]:
    """Measure cells and append their records.

    Args:
        cells: From `missing`.
        folder: Where systems are kept.
        pool: Runs the jobs.
        out: CSV file.
        say: Called with a line of progress.

    Yields:
        Every cell when it is in the file; one that the data can't have is passed over.
    """
    world = None
    for cell in cells:
        if world is None or (world.setup, world.seed) != (cell.setup, cell.seed):
            world = prepare(cell.setup, cell.seed, folder, pool)
            if advice := crowding(world.outline, cell.setup.shards, cell.setup.slices):
                say(f"{cell.setup.name} seed {cell.seed}: {advice}")
        deletion = world.choose(cell.mix)
        if deletion is None:
            say(f"{cell.setup.name} seed {cell.seed}: {cell.mix} does not exist here")
            continue
        found = list(Judge(world, cell.mix, deletion, pool).records(cell.contenders))
        records.append(out, found)
        say(f"{cell.setup.name} seed {cell.seed} {cell.mix}: {deletion.rows} rows, {len(found)} records")
        yield cell


def crowding(outline: Outline, shards: int, slices: int) -> str | None:
    """Return what to heed when some slices are empty because few people fill them, or None.

    Args:
        outline: Every training row.
        shards: S.
        slices: R.

    Returns:
        How many are empty, and numbers that would fill them: about five people a slice leave one in 150 empty.
    """
    full = len(set(zip(outline.shard.tolist(), outline.slice.tolist(), strict=True)))
    if full == shards * slices:
        return None
    people = len(np.unique(outline.groups[outline.groups.any(axis=1)], axis=0))
    fitting = max(1, people // 5)
    few = max(1, round(fitting**0.5))
    suggestion = f"; {people} people would fill S={max(1, fitting // few)}, R={few}" if people else ""
    return f"{shards * slices - full} of {shards * slices} slices are empty{suggestion}"


def _touched(mix: str, setup: Setup) -> float:
    """Return about which share of the shards a mix touches."""
    kind, _, value = mix.partition(":")
    if kind in {"rows", "users"}:
        return min(1.0, int(value) / setup.shards)
    return float(value) if kind == "touch" else 1.0
