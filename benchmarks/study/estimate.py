"""Expected hours of a grid: what training and scoring a row costs here, times what every cell needs of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.grid import CONTENDERS, Setup
from benchmarks.study.pool import Pool
from benchmarks.study.runner import Cell
from benchmarks.study.stream import PACE
from benchmarks.study.trial import PLANNED
from benchmarks.study.worker import LIVE_ROWS
from benchmarks.study.world import open_site
from hybridmu.config import PolicySettings
from hybridmu.core.strategies import newton

# What one deletion costs besides its contenders, in trainings of the touched shards: the oracle, its twin in another
# order, and the exact retrain; and calibration, in trainings of the whole system.
_ORACLES, _CALIBRATION = 2.0, 5.0
# Of contenders, in trainings: a retrain and what the planner chooses, an update without its fine-tuning, the replay for
# amnesiac unlearning.
_RETRAIN, _CHOSEN, _UPDATE, _REPLAY = 0.9, 0.4, 0.05, 1.3
# Everything else, over the time of all that.
_OVERHEAD = 1.15


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
        full, live = visit * rows * setup.epochs, rows / setup.shards
        seconds += full * (1 + _CALIBRATION)
        for cell in cells:
            if (cell.setup, cell.seed) == (setup, seed):
                # Exact strategies end in one oracle's bits, the planner's in those of what it chose.
                models = len({*cell.contenders, "scratch", "oracle-again"} - {"sisa", "hybrid"})
                each = setup.test_rows + min(live, LIVE_ROWS)
                once = full * trainings(cell, live, repeats) + scored * each * models * setup.shards
                seconds += once * _touched(cell.mix, setup)
    return seconds * _OVERHEAD / 3600 / pool.workers


def trainings(cell: Cell, live: float, repeats: int = 1) -> float:
    """Return what a deletion costs, in trainings of the touched shards.

    Args:
        cell: The deletion and what fulfils it.
        live: Rows of a shard.
        repeats: How often a strategy of the product is run.
    """
    setup = cell.setup
    total, kind = _ORACLES + repeats * _RETRAIN, cell.mix.partition(":")[0]
    for contender in (CONTENDERS[name] for name in cell.contenders):
        times = float(repeats if contender.runs in PLANNED else 1)
        if kind == "stream":  # an update of one shard for nearly every request; retrains take several at once
            times = int(cell.mix.partition(":")[2]) / setup.shards
            total += times * PACE * (contender.runs == "retrain")
        if contender.runs == "auto":
            total += times * _CHOSEN
        elif contender.runs not in {"scratch", "retrain", ""}:
            epochs = contender.finetunes * _finetuning(setup)
            epochs += (contender.runs == "dpus-newton") * newton.cost(int(live)) / live
            total += times * (_UPDATE + epochs / setup.epochs)
        total += _REPLAY * (contender.runs == "amnesiac")
    return total


def _finetuning(setup: Setup) -> float:
    """Return the budget of what fine-tunes, in epochs over a shard's live rows."""
    return PolicySettings(**setup.policy).finetune_epochs


def _touched(mix: str, setup: Setup) -> float:
    """Return about which share of the shards a mix touches."""
    kind, _, value = mix.partition(":")
    if kind in {"rows", "users"}:
        return min(1.0, int(value) / setup.shards)
    return float(value) if kind == "touch" else 1.0
