"""Measuring strategies on one deletion: what they cost, and how far their result is from the oracle."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.study import stream
from benchmarks.study.grid import CONTENDERS, Contender
from benchmarks.study.mixes import Deletion
from benchmarks.study.pool import Pool
from benchmarks.study.records import Record, environment
from benchmarks.study.shards import ShardRecord
from benchmarks.study.trial import PLANNED, PRICED, Trial
from benchmarks.study.worker import Job, Made, Scores
from benchmarks.study.world import World
from hybridmu.core.audit.measures import tow
from hybridmu.core.tasks.classification import Classification
from hybridmu.planning.cost import schedule
from hybridmu.types import Plan


class Judge:
    """Runs contenders on one deletion and compares them with its oracle.

    The oracle (every touched shard trained from scratch without the rows), a second one in another order of the data,
    and the exact retrain, which is what approximate results owe, are made first.

    Args:
        world: The trained system.
        mix: Request mix.
        deletion: What it revokes.
        pool: Runs the jobs.
        repeats: How often a strategy of the product is run; the medians of its times count.
    """

    def __init__(self, world: World, mix: str, deletion: Deletion, pool: Pool, repeats: int = 1) -> None:
        self.world, self.mix, self.deletion, self.pool, self.repeats = world, mix, deletion, pool, repeats
        self.oracle = self.trial(CONTENDERS["scratch"])
        self.again = self.trial(CONTENDERS["oracle-again"])
        self.exact = self.trial(CONTENDERS["sisa"])

    def records(self, names: Sequence[str]) -> Iterator[tuple[Record, list[ShardRecord]]]:
        """Run contenders.

        Args:
            names: Which.

        Yields:
            Their records, in order, and where a strategy of the product was asked for, those of every shard.
        """
        ready = {"scratch": self.oracle, "oracle-again": self.again, "sisa": self.exact}
        if self.mix.startswith("stream:"):
            ready = {name: stream.run(self.world, self.deletion, CONTENDERS[name], self.pool) for name in names}
        for name in names:
            trial = ready.get(name) or self.trial(CONTENDERS[name])
            priced = CONTENDERS[name].runs in PRICED and CONTENDERS[name].alpha is None
            yield self._record(name, trial), self._shards(trial, trial.plan) if priced and trial.plan else []

    def trial(self, contender: Contender) -> Trial:
        """Run one contender on every touched shard, score what it made, and drop it."""
        if not contender.runs:
            live = [(shard, self.world.trajectories[shard][-1], False) for shard in self.deletion.keys]
            return Trial((), self._score(live), 0.0, owing=frozenset(self.deletion.keys))
        plan = None
        if contender.runs in PLANNED:
            plan = self.world.plan(self.deletion, contender.runs, self.pool.workers)
        jobs = self._jobs(contender, plan)
        rounds: list[tuple[list[Made], float]] = []
        scores: dict[int, Scores] = {}
        for _ in range(self.repeats if plan else 1):
            self._all("warm", [(job.shard, (job,)) for job in jobs])
            started = time.perf_counter()
            made: list[Made] = self._all("run", [(job.shard, (job,)) for job in jobs])
            rounds.append((made, time.perf_counter() - started))
            # Every round ends in the same bits.
            scores = scores or self._score([(m.shard, m.blob, m.side) for m in made])
            self._all("drop", [(m.shard, (m,)) for m in made])
        owing = frozenset(job.shard for job in jobs if job.runs not in {"retrain", "scratch"})
        typical = [median(group) for group in zip(*(made for made, _ in rounds), strict=True)]
        wall = statistics.median(wall for _, wall in rounds)
        return Trial(tuple(typical), scores, wall, plan, owing)

    def _score(self, made: Sequence[tuple[int, str | None, bool]]) -> dict[int, Scores]:
        keys, tests = self.deletion.keys, self.world.setup.test_rows
        calls = [(shard, (shard, blob, side, keys[shard], tests)) for shard, blob, side in made]
        return {found.shard: found for found in self._all("score", calls)}

    def _jobs(self, contender: Contender, plan: Plan | None) -> list[Job]:
        world, keys = self.world, self.deletion.keys
        alphas = {line.shard: line.alpha for line in plan.shards} if plan else {}
        names = {line.shard: line.strategy for line in plan.shards} if plan else {}
        return [
            Job(
                shard,
                names.get(shard, contender.runs),
                keys[shard],
                world.trajectories[shard],
                world.trajectories[shard][-1],
                alphas.get(shard, 0.0) if contender.alpha is None else contender.alpha,
                contender.name == "oracle-again",
            )
            for shard in ([line.shard for line in plan.shards] if plan else keys)
        ]

    def _all(self, method: str, calls: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        return self.pool.run(self.world.settings, [(shard, method, arguments) for shard, arguments in calls])

    # ------------------------------------------------------------------ comparing

    def _record(self, name: str, trial: Trial) -> Record:
        world, setup = self.world, self.world.setup
        oracle, again = self.oracle.scores, self.again.scores
        device, wall = trial.seconds, trial.wall_seconds
        cpu = sum(made.cpu_seconds for made in trial.made)
        visits = sum(made.visits for made in trial.made)
        if CONTENDERS[name].runs == "scratch":
            # The other shards give the same bits: they are charged what as many visits took on the touched ones.
            rest = [count for shard, (_, count) in world.training.items() if shard not in self.deletion.keys]
            more = [device / visits * count for count in rest]
            wall = max(wall, *schedule([m.seconds for m in trial.made] + more, self.pool.workers))
            whole = 1 + sum(rest) / visits
            device, cpu, visits = device * whole, cpu * whole, visits + sum(rest)
        ours = self._summary(trial.scores)
        theirs = self._summary(oracle)
        return Record(
            dataset=setup.dataset,
            model=setup.model,
            shards=setup.shards,
            slices=setup.slices,
            epochs=setup.epochs,
            mix=self.mix,
            strategy=name,
            seed=world.seed,
            rows=len(world.outline.shard),
            revoked=self.deletion.rows,
            touched=len(self.deletion.keys),
            workers=self.pool.workers,
            wall_seconds=wall,
            device_seconds=device,
            cpu_seconds=cpu,
            repair_seconds=sum(made.seconds for made in self.exact.made if made.shard in trial.owing),
            visits=visits,
            estimated_seconds=trial.plan.makespan_seconds if trial.plan else None,
            rules=_rules(trial.plan),
            accuracy=ours["accuracy"],
            oracle_accuracy=theirs["accuracy"],
            forget_loss=ours["forget_loss"],
            oracle_forget_loss=theirs["forget_loss"],
            noise_gap=self._summary(again)["forget_loss"] - theirs["forget_loss"],
            noise_accuracy=self._summary(again)["accuracy"] - theirs["accuracy"],
            forget_accuracy=ours["forget_accuracy"],
            oracle_forget_accuracy=theirs["forget_accuracy"],
            retain_accuracy=ours["retain_accuracy"],
            oracle_retain_accuracy=theirs["retain_accuracy"],
            tow=tow(*((ours[name], theirs[name]) for name in ("forget_accuracy", "retain_accuracy", "accuracy"))),
            bitwise=sum(scores.weights == oracle[shard].weights for shard, scores in trial.scores.items()),
            applied_p50=float(np.percentile(trial.latencies, 50)) if trial.latencies else None,
            applied_p95=float(np.percentile(trial.latencies, 95)) if trial.latencies else None,
            **environment(),
        )

    def _shards(self, trial: Trial, plan: Plan) -> list[ShardRecord]:
        world, setup = self.world, self.world.setup
        lines, excess = {line.shard: line for line in plan.shards}, world.class_excess(self.deletion)
        known = {shard: line.strategy == "retrain" or line.calibration is not None for shard, line in lines.items()}
        return [
            ShardRecord(
                dataset=setup.dataset,
                model=setup.model,
                shards=setup.shards,
                slices=setup.slices,
                epochs=setup.epochs,
                mix=self.mix,
                strategy=lines[made.shard].strategy,
                seed=world.seed,
                shard=made.shard,
                parameters=world.parameters,
                slice_epochs=world.epochs,
                rows=world.counts[made.shard],
                revoked=self.deletion.revoked[made.shard],
                seconds=made.seconds,
                cpu_seconds=made.cpu_seconds,
                visits=made.visits,
                checkpoints=made.checkpoints,
                gap=trial.scores[made.shard].forget_loss - self.oracle.scores[made.shard].forget_loss,
                alpha=lines[made.shard].alpha,
                predicted_error=lines[made.shard].predicted_error if known[made.shard] else float("nan"),
                class_excess=excess[made.shard],
                workers=self.pool.workers,
            )
            for made in trial.made
        ]

    def _summary(self, scores: Mapping[int, Scores]) -> dict[str, float]:
        """Return the ensemble's test accuracy, and means over the touched shards weighted by their rows."""
        logits = [
            torch.tensor(found.test_logits)
            for found in {**self.world.scores, **scores}.values()
            if found.test_logits is not None
        ]
        labels = torch.tensor(self.world.labels)
        votes = Classification().combine(torch.stack(logits), self.world.settings.serving.aggregation)
        return {
            "accuracy": float((votes.argmax(dim=1) == labels).float().mean()),
            "forget_loss": _mean([(s.forget_loss, s.revoked) for s in scores.values()]),
            "forget_accuracy": _mean([(s.forget_accuracy, s.revoked) for s in scores.values()]),
            "retain_accuracy": _mean([(s.retain_accuracy, s.live) for s in scores.values()]),
        }


def median(rounds: Sequence[Made]) -> Made:
    """Return what a job made, with the median of its times."""
    seconds, cpu = ([getattr(made, name) for made in rounds] for name in ("seconds", "cpu_seconds"))
    return replace(rounds[0], seconds=statistics.median(seconds), cpu_seconds=statistics.median(cpu))


def _rules(plan: Plan | None) -> str:
    lines = plan.shards if plan else ()
    found = Counter(line.strategy if line.rule == "boundary" else line.rule for line in lines)
    return ", ".join(f"{rule} {count}" for rule, count in sorted(found.items()))


def _mean(pairs: Sequence[tuple[float, int]]) -> float:
    """Return the mean weighted by rows, over what is a number: an emptied shard has no sub-model."""
    known = [(value, rows) for value, rows in pairs if value == value and rows]
    total = sum(rows for _, rows in known)
    return sum(value * rows for value, rows in known) / total if total else float("nan")
