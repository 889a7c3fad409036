"""First training: one round over all shards, whose publication is the first version."""

from __future__ import annotations

from hybridmu.errors import ShardFailedError, StateError
from hybridmu.kinds import FALLBACK
from hybridmu.runtime.coordinator.round_jobs import RoundJobs
from hybridmu.runtime.coordinator.rounds import Round, new_id
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import NO_KEYS, JobResult, ShardPlan, ShardStats


class FirstTraining:
    """Trains every shard once. Somebody waits for it, and nothing is served yet: its faults are raised.

    Args:
        site: Lake, recipes and learner.
        registry: Where the first version is published.
        journal: What storage remembers of the ledger.
        jobs: Makes jobs and takes their results.
    """

    def __init__(self, site: Site, registry: Registry, journal: Journal, jobs: RoundJobs) -> None:
        self._site, self._registry, self._journal, self._jobs = site, registry, journal, jobs
        self._round: Round | None = None

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Return its round while it is at work."""
        return (self._round,) if self._round else ()

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of its own."""
        return self._round is not None and job_id in self._round.jobs

    def begin(self) -> None:
        """Queue every shard, the longest first."""
        work = {shard: training_plan(self._site, shard) for shard in range(self._site.settings.sisa.shards)}
        self._round = Round(new_id("train"), {}, work)
        for plan in sorted(work.values(), key=lambda p: (-p.sample_visits, p.shard)):
            self._jobs.retrain(self._round, plan.shard)

    def receive(self, token: int, result: JobResult) -> bool:
        """Take the result of one of its jobs.

        Args:
            token: The coordinator's fencing token.
            result: Of the job.

        Returns:
            Whether that was the last, and the first version is published.

        Raises:
            ShardFailedError: A shard could not be trained.
            StateError: No shard has a row.
        """
        training = self._round
        assert training is not None
        job = training.jobs.pop(result.job_id)
        if failure := self._jobs.take(training, job, result):
            self._round = None
            raise ShardFailedError(f"shard {job.shard} could not be trained", got=failure.error)
        if len(training.outcomes) < len(training.plans):
            return False
        outcomes = [training.outcomes[shard] for shard in sorted(training.outcomes)]
        if not any(outcome.blob for outcome in outcomes):
            raise StateError("no shard has a row to train on", remedy="check the training table")
        self._registry.publish_training(token, outcomes)
        self._journal.settle()
        self._round = None
        return True


def training_plan(site: Site, shard: int) -> ShardPlan:
    """Return the plan that trains a shard on all its rows.

    Args:
        site: Lake, recipes and learner.
        shard: Which.
    """
    epochs = site.recipe_for(shard).epochs
    slices = len(epochs)
    rows = site.lake.counts("train", shard, NO_KEYS)[0][:slices]
    work = site.learner.workload(ShardStats(shard, epochs, rows, (0,) * slices, (0,) * slices, (False,) * slices))
    return ShardPlan(shard, FALLBACK, 1, 0, work.full_visits, 1.0, 0.0, (0.0, 0.0), (), "training", ("first training",))
