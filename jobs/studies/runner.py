"""Running a grid: what is missing in the CSV is measured and appended, one deletion at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybridmu.config import PolicySettings
from jobs.studies import records, shards
from jobs.studies.grid import CONTENDERS, Grid, Setup
from jobs.studies.measure import Judge
from jobs.studies.mixes import Outline
from jobs.studies.pool import Pool
from jobs.studies.records import Key
from jobs.studies.stream import STREAMED
from jobs.studies.trial import PLANNED
from jobs.studies.worker import LIVE_ROWS
from jobs.studies.world import open_site, prepare

# What one deletion costs besides its contenders, in trainings of the touched shards: the oracle, its twin in another
# order, and the exact retrain; and calibration, in trainings of the whole system.
_ORACLES, _CALIBRATION = 2.0, 5.0
# Of contenders, in trainings: a retrain and what the planner chooses, an update without its fine-tuning, the replay for
# amnesiac unlearning.
_RETRAIN, _CHOSEN, _UPDATE, _REPLAY = 0.9, 0.4, 0.05, 1.3
# What always retraining costs over a whole stream, in trainings of all shards.
_STREAMED = 8.0
# Everything else, over the time of all that.
_OVERHEAD = 1.15


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
                if not setup.has(mix):
                    continue
                fitting = [n for n in grid.contenders if not mix.startswith("stream:") or n in STREAMED]
                fitting = [n for n in fitting if seed in grid.seeds_of(setup, mix, n)]
                names = [n for n in fitting if key_of(setup, mix, n, seed) not in known]
                cells += [Cell(setup, mix, seed, tuple(names))] if names else []
    return cells


def key_of(setup: Setup, mix: str, contender: str, seed: int) -> Key:
    """Return how a CSV row names a measurement."""
    described = (setup.dataset, setup.model, setup.shards, setup.slices, setup.epochs)
    return records.named(described, mix, contender, seed)


def expected_hours(cells: Sequence[Cell], folder: Path, pool: Pool, repeats: int = 1) -> float:
    """Return how long cells will take, from what training and scoring a row costs on each kind of system.

    Args:
        cells: What is to be run.
        folder: Where systems are kept; their rows are read here if they were not yet.
        pool: Measures.
        repeats: How often a strategy of the product is run.

    Returns:
        Hours; good to a factor of two.
    """
    seconds = 0.0
    costs: dict[str, tuple[float, float, int]] = {}
    for setup, seed in {(cell.setup, cell.seed): None for cell in cells}:
        if setup.name not in costs:
            site = open_site(setup, seed, folder)
            probed = pool.run(site.settings, [(0, "probe", (0,))])[0]
            costs[setup.name] = (*probed, site.lake.manifest.training_rows)
        visit, scored, rows = costs[setup.name]
        full = visit * rows * setup.epochs
        seconds += full * (1 + _CALIBRATION)
        for cell in cells:
            if (cell.setup, cell.seed) == (setup, seed):
                # Exact strategies end in one oracle's bits, the planner's in those of what it chose.
                models = len({*cell.contenders, "scratch", "oracle-again"} - {"sisa", "hybrid"})
                each = setup.test_rows + min(rows / setup.shards, LIVE_ROWS)
                once = full * _trainings(cell, setup, repeats) + scored * each * models * setup.shards
                seconds += once * _touched(cell.mix, setup)
    return seconds * _OVERHEAD / 3600 / pool.workers


def _trainings(cell: Cell, setup: Setup, repeats: int) -> float:
    """Return what a deletion costs, in trainings of the touched shards."""
    total, kind = _ORACLES + repeats * _RETRAIN, cell.mix.partition(":")[0]
    for contender in (CONTENDERS[name] for name in cell.contenders):
        times = float(repeats if contender.runs in PLANNED else 1)
        if kind == "stream":  # an update of one shard for nearly every request; retrains take several at once
            times = int(cell.mix.partition(":")[2]) / setup.shards
            total += _STREAMED * (contender.runs == "retrain")
        if contender.runs == "auto":
            total += times * _CHOSEN
        elif contender.runs not in {"scratch", "retrain", ""}:
            total += times * (_UPDATE + contender.finetunes * _finetuning(setup) / setup.epochs)
        total += _REPLAY * (contender.runs == "amnesiac")
    return total


def run(
    cells: Sequence[Cell], folder: Path, pool: Pool, out: Path, say: Callable[[str], None], repeats: int = 1
) -> Iterator[Cell]:
    """Measure cells and append their records, and those of their shards to a file beside it.

    Args:
        cells: From `missing`.
        folder: Where systems are kept.
        pool: Runs the jobs.
        out: CSV file.
        say: Called with a line of progress.
        repeats: How often a strategy of the product is run.

    Yields:
        Every cell when it is in the file; one that the data can't have is passed over.
    """
    world, aside = None, shards.beside(out)
    known = {record.key for record in shards.read(aside)}
    for cell in cells:
        if world is None or (world.setup, world.seed) != (cell.setup, cell.seed):
            world = prepare(cell.setup, cell.seed, folder, pool)
            shards.append(aside, [record for record in world.observed if record.key not in known])
            if advice := crowding(world.outline, cell.setup.shards, cell.setup.slices):
                say(f"{cell.setup.name} seed {cell.seed}: {advice}")
        deletion = world.choose(cell.mix)
        if deletion is None:
            say(f"{cell.setup.name} seed {cell.seed}: {cell.mix} does not exist here")
            continue
        found = list(Judge(world, cell.mix, deletion, pool, repeats).records(cell.contenders))
        shards.append(aside, [shard for _, mine in found for shard in mine])
        records.append(out, [record for record, _ in found])
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


def _finetuning(setup: Setup) -> float:
    """Return the budget of what fine-tunes, in epochs over a shard's live rows."""
    return PolicySettings(**setup.policy).finetune_epochs


def _touched(mix: str, setup: Setup) -> float:
    """Return about which share of the shards a mix touches."""
    kind, _, value = mix.partition(":")
    if kind in {"rows", "users"}:
        return min(1.0, int(value) / setup.shards)
    return float(value) if kind == "touch" else 1.0
