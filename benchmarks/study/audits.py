"""Audits of the study: shadow models of one shard by every strategy, one CSV row per model.

Every number has two seeds. With the first a sub-model is trained with the revoked rows (`nothing`), unlearned by each
strategy, and trained without them (`oracle`); with the second it is trained without them once more (`reference`), which
is what all are compared with (`core/audit/shadow_models.py`). Workers are processes that hold the shard's rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.grid import CONTENDERS, SETUPS, Setup
from benchmarks.study.mixes import Keys
from benchmarks.study.pool import LocalPool
from benchmarks.study.records import environment
from benchmarks.study.trial import PLANNED
from benchmarks.study.world import prepare  # registers fine-tuning, too
from hybridmu.config import Settings
from hybridmu.core.audit import shadow_models as shadow
from hybridmu.core.audit.shadow_models import Ground, Score
from hybridmu.core.evaluation import mean_loss
from hybridmu.core.kernel.model import State
from hybridmu.runtime.workers import shadow_trainer
from hybridmu.runtime.workers.context import Site
from hybridmu.types import KeySet

# One sub-model of all 3,700 rows of MNIST-5k, and one of a quarter of Adult: enough revoked rows for rates of 0.1 %.
AUDITED = (replace(SETUPS["mnist5k/mlp"], shards=1), replace(SETUPS["adult/mlp"], shards=4))
MIXES = ("share:0.01", "share:0.1")
STRATEGIES = ("sisa", "dpus", "dpus-optimised", "dpus-newton", "rewind", "fine-tune")
CONTROLS = ("nothing", "oracle", "reference")
_SHARD = 0
# Margins kept per model and kind of row: 24 revoked rows of 42 models are the 1,000 guesses that 0.1 % asks for.
_FORGOTTEN, _OTHERS = 24, 12
# Time of all strategies, relearning and scoring, over that of one training; what processes cost at their start.
_STRATEGIES, _START_SECONDS = 1.5, 10.0

Key = tuple[str, ...]


@dataclass(frozen=True)
class AuditRecord:
    """One shadow model; everything in it may be published.

    Attributes:
        dataset: Built-in dataset.
        model: Built-in task.
        shards: S.
        slices: R.
        epochs: Plain-training epochs.
        mix: Request mix.
        strategy: Contender, or a control: `nothing`, `oracle`, `reference`.
        number: Decides the two seeds.
        rows: Training rows of the shard.
        revoked: Of these, revoked ones.
        alpha: Step of the subtraction.
        seconds: Processor seconds of making the model (of a strategy: without the training before it).
        loss: Mean loss on the revoked rows.
        forget_accuracy: Accuracy on them.
        retain_accuracy: On a sample of the rows that stay.
        test_accuracy: On a sample of the test rows.
        relearn: Epochs until the revoked rows are learnt again; 21: not within 20.
        forget: Margins at up to 24 revoked rows, always the same ones.
        retain: At 12 rows that stay.
        unseen: At 12 test rows.
        hardware: Processor kind, instruction set, cores, device.
        versions: Of Python, torch, numpy, hybridmu.
        commit: Of the code; `+` marks uncommitted changes.
    """

    dataset: str
    model: str
    shards: int
    slices: int
    epochs: int
    mix: str
    strategy: str
    number: int
    rows: int
    revoked: int
    alpha: float
    seconds: float
    loss: float
    forget_accuracy: float
    retain_accuracy: float
    test_accuracy: float
    relearn: int
    forget: str
    retain: str
    unseen: str
    hardware: str
    versions: str
    commit: str

    @property
    def key(self) -> Key:
        """Return what names the model."""
        named = (self.dataset, self.model, self.shards, self.slices, self.epochs, self.mix, self.strategy, self.number)
        return tuple(map(str, named))

    @property
    def score(self) -> Score:
        """Return it as `core.findings` takes it, with as many digits as the file has."""
        forget, retain, unseen = (tuple(map(float, text.split())) for text in (self.forget, self.retain, self.unseen))
        accuracies = (self.forget_accuracy, self.retain_accuracy, self.test_accuracy)
        return Score(forget, retain, unseen, self.loss, accuracies, self.relearn)


@dataclass(frozen=True)
class Task:
    """What a worker makes at once: every missing model of one number.

    Attributes:
        setup: Dataset and model.
        settings: The system, whose rows are in its lake.
        number: Decides the seeds.
        mixes: (mix, revoked keys, missing strategies and controls, contender → α).
    """

    setup: Setup
    settings: Settings
    number: int
    mixes: tuple[tuple[str, Keys, tuple[str, ...], dict[str, float]], ...]


def read(path: Path) -> list[AuditRecord]:
    """Return the records of a file; none when it is not there."""
    return csvfile.read(path, AuditRecord)


def tasks(
    setups: Sequence[Setup], mixes: Sequence[str], models: int, known: set[Key], folder: Path
) -> tuple[list[Task], float]:
    """Prepare the systems and say what is missing.

    Args:
        setups: Systems; each is trained and calibrated once, and kept in `folder`.
        mixes: Request mixes.
        models: Numbers 0 to N − 1.
        known: Keys that the file has.
        folder: Where systems are kept.

    Returns:
        (tasks, all systems' numbers in turn; processor seconds they will take, from what training took here).
    """
    found, seconds, pool = [], 0.0, LocalPool()
    for setup in setups:
        world = prepare(setup, 0, folder, pool)
        cases = []
        for mix in mixes:
            deletion = world.choose(mix)
            if deletion is None or _SHARD not in deletion.keys:
                continue
            alphas = {}
            for name in STRATEGIES:
                contender = CONTENDERS[name]
                alphas[name] = contender.alpha or 0.0
                if contender.runs in PLANNED:
                    plan = world.plan(deletion, contender.runs, 1)
                    alphas[name] = next(line.alpha for line in plan.shards if line.shard == _SHARD)
            cases.append((mix, deletion.keys[_SHARD], alphas))
        for number in range(models):
            lacking = tuple(
                (mix, keys, names, alphas)
                for mix, keys, alphas in cases
                if (names := tuple(n for n in (*STRATEGIES, *CONTROLS) if _key(setup, mix, n, number) not in known))
            )
            if lacking:
                found.append(Task(setup, world.settings, number, lacking))
                seconds += world.training[_SHARD][0] * (1 + len(lacking) * (3 + _STRATEGIES))
    found.sort(key=lambda task: task.number)
    return found, seconds


def run(found: Sequence[Task], workers: int, out: Path, say: Callable[[str], None]) -> Iterator[Task]:
    """Make what is missing, and append it to the file.

    Args:
        found: From `tasks`.
        workers: Processes.
        out: CSV file.
        say: Called with a line of progress.

    Yields:
        Every task when its rows are in the file.
    """
    started = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(make, task): task for task in found}
        try:
            for done, future in enumerate(as_completed(pending), start=1):
                csvfile.append(out, future.result(), AuditRecord)
                left = (time.monotonic() - started) / done * (len(found) - done)
                say(f"{done} of {len(found)}; about {left / 60:.1f} minutes left")
                yield pending[future]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def expected_minutes(seconds: float, workers: int) -> float:
    """Return how long tasks take, good to a factor of two."""
    return (seconds / workers + _START_SECONDS) / 60 if seconds else 0.0


def make(task: Task) -> list[AuditRecord]:
    """Return the models of one task; runs in a worker."""
    site = _site(task.settings)
    made: list[AuditRecord] = []
    trajectory: dict[int, State] = {}
    training = 0.0
    for mix, keys, names, alphas in task.mixes:
        ground = shadow_trainer.ground(site, _SHARD, KeySet(keys))
        ours, theirs = shadow.seeds(ground.context.recipe.seed, task.number)
        if not trajectory:
            begun = time.process_time()
            trajectory = shadow.train(ground, ours, everything=True)
            training = time.process_time() - begun
        last = trajectory[max(trajectory)]
        target = mean_loss(ground.model(last), ground.context.revoked, site.task)
        for name in names:
            begun = time.process_time()
            if name == "nothing":
                state = last
            elif name in CONTROLS:
                run_ = shadow.train(ground, ours if name == "oracle" else theirs)
                state = run_[max(run_)]
            else:
                state = shadow.unlearn(ground, ours, trajectory, CONTENDERS[name].runs, alphas[name])
            seconds = training if name == "nothing" else time.process_time() - begun
            score = shadow.score(ground, ground.model(state), ground.context.revoked, target)
            made.append(_record(task, mix, name, ground, alphas.get(name, 0.0), seconds, score))
    return made


_SITES: dict[str, Site] = {}


def _site(settings: Settings) -> Site:
    """Return a system in this process, opened once."""
    if settings.storage_url not in _SITES:
        _SITES[settings.storage_url] = Site(settings)
        _SITES[settings.storage_url].configure_torch()
    return _SITES[settings.storage_url]


def _record(task: Task, mix: str, name: str, ground: Ground, alpha: float, seconds: float, score: Score) -> AuditRecord:
    setup = task.setup
    forget_accuracy, retain_accuracy, test_accuracy = score.accuracies
    return AuditRecord(
        dataset=setup.dataset,
        model=setup.model,
        shards=setup.shards,
        slices=setup.slices,
        epochs=setup.epochs,
        mix=mix,
        strategy=name,
        number=task.number,
        rows=len(ground.everything),
        revoked=len(ground.context.revoked),
        alpha=alpha,
        seconds=seconds,
        loss=score.loss,
        forget_accuracy=forget_accuracy,
        retain_accuracy=retain_accuracy,
        test_accuracy=test_accuracy,
        relearn=score.relearn,
        forget=_thinned(score.forget, _FORGOTTEN),
        retain=_thinned(score.retain, _OTHERS),
        unseen=_thinned(score.unseen, _OTHERS),
        **environment(),
    )


def _thinned(margins: Sequence[float], limit: int) -> str:
    """Return at most so many margins, evenly over slices, as text."""
    count = min(limit, len(margins))
    return " ".join(f"{margins[at * len(margins) // count]:.3g}" for at in range(count))


def _key(setup: Setup, mix: str, strategy: str, number: int) -> Key:
    named = (setup.dataset, setup.model, setup.shards, setup.slices, setup.epochs, mix, strategy, number)
    return tuple(map(str, named))
