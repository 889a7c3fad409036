"""Running a grid: what is missing in the CSV is measured and appended, one deletion at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study import records, shards
from benchmarks.study.grid import Grid, Setup
from benchmarks.study.measure import Judge
from benchmarks.study.mixes import Outline
from benchmarks.study.pool import Pool
from benchmarks.study.records import Key
from benchmarks.study.stream import STREAMED
from benchmarks.study.world import prepare


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
