"""A batch of requests on its way from SERVED and exact to PURGED, with its stages.

Every stage is repeatable after a crash:

1. *prove*: each touched shard makes evidence and surveys what will go; both are kept in the ledger.
2. *foresee*: what every file will hold without the rows is worked out, and recorded; until it is written, a file may
   hold either.
3. *index*: rows leave the index files that all shards share.
4. *rows*: each shard rewrites its tables, and deletes every blob that the served version does not stand on.
5. *look*: storage and the machines are searched.
6. *finish*: tombstones are emptied, the database is cleaned and searched too; then the requests are PURGED, with a
   certificate each (`certifier.py`).

What fails on one shard, or is found of one request, keeps those requests back, and no others.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from hybridmu.errors import DatabaseError
from hybridmu.faults import reach
from hybridmu.runtime.coordinator.certifier import Certifier
from hybridmu.runtime.coordinator.purge_findings import PurgeFindings
from hybridmu.runtime.coordinator.purge_schedule import PurgeSchedule
from hybridmu.runtime.purge.own_files import advice
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.operator_controls import Hold
from hybridmu.types import (
    ForeseeIndexJob,
    ForeseeIndexOutcome,
    ForeseeRowsJob,
    ForeseeRowsOutcome,
    Job,
    JobResult,
    KeySet,
    ProofOutcome,
    ProveJob,
    PurgeIndexJob,
    PurgeIndexOutcome,
    PurgeRowsJob,
    PurgeRowsOutcome,
    RequestNeed,
    SearchJob,
    SearchOutcome,
    ShardFailure,
)
from hybridmu.types.surveys import Survey

_log = logging.getLogger(__name__)

Queue = Callable[[Job], None]
Stage = Callable[[int], None]
Clean = Callable[[int], tuple[str, ...]]
Unproven = Callable[[frozenset[int]], dict[int, tuple[RequestNeed, ...]]]


@dataclass(frozen=True)
class Means:
    """What every batch works with.

    Attributes:
        max_attempts: Of a job.
        database: Of the system.
        journal: What storage remembers of the ledger.
        recorder: Keeps what the lake's files hold.
        certifier: Certifies what was purged.
        schedule: Is told which requests are tried again.
        queue: Queues a job with the coordinator.
        renew: Keeps the coordinator's lease during longer work.
        clean: Takes forgotten rows out of the copies of new data that wait; returns their names.
    """

    max_attempts: int
    database: Database
    journal: Journal
    recorder: Recorder
    certifier: Certifier
    schedule: PurgeSchedule
    queue: Queue
    renew: Callable[[], None]
    clean: Clean


class PurgeBatch:
    """Requests that are purged together.

    Args:
        means: What it works with.
        requests: Request → its shards.

    Attributes:
        requests: Those that were not kept back.
        shards: All that it works on.
        jobs: Job id → job under way.
        ended: Nothing is left to do.
    """

    def __init__(self, means: Means, requests: Mapping[str, frozenset[int]]) -> None:
        self.requests, self.shards = dict(requests), frozenset[int]().union(*requests.values())
        self.jobs: dict[str, Job] = {}
        self.ended = False
        self._means, self._database = means, means.database
        self._deletions, self._evidence = means.database.deletions, means.database.evidence
        self._then: Stage = self._foresee  # what comes when the jobs are done
        self._attempts: Counter[tuple[type[Job], int | None]] = Counter()  # by kind of job and shard
        self._found = PurgeFindings()
        self._asked: frozenset[str] = frozenset()  # for which requests it was foreseen what goes
        self._emptied: set[int] = set()  # tombstones without rows

    # ------------------------------------------------------------------ stages

    def prove(self, token: int, holds: Collection[Hold], unproven_on: Unproven) -> None:
        """Have evidence and surveys made where they are missing.

        Args:
            token: The coordinator's fencing token.
            holds: Legal holds.
            unproven_on: Returns what lacks evidence, by shard.
        """
        reach("purge.begin")
        stones = self._deletions.exact_stones(self.shards)
        unproven = unproven_on(self.shards)
        held = self._deletions.stones_of([name for name in self._deletions.held(holds) if name])
        surveyed = self._evidence.surveyed(list(self.requests))
        since = {shard: min(need.upto for need in needs) for shard, needs in unproven.items() if needs}
        history = self._database.registry.history(since)
        going: dict[int, list[str]] = {shard: [] for shard in self.shards}
        for name, touched in self.requests.items():
            for shard in touched:
                going[shard].append(name)
        for shard, mine in sorted(going.items()):
            # A shard that a hold touches is looked at again: the hold may be younger than the survey.
            if unproven[shard] or shard in held or any((name, shard) not in surveyed for name in mine):
                self._hand(
                    ProveJob(
                        job_id=_job_id(),
                        shard=shard,
                        tombstones=tuple(stones[shard]),
                        history=history.get(shard, ()),
                        needs=unproven[shard],
                        going=tuple(mine),
                        held=KeySet.of(held.get(shard, ())),
                    )
                )

    def go_on(self, token: int) -> None:
        """Begin the next stage: all jobs of the last one are done."""
        self._then(token)

    def _foresee(self, token: int) -> None:
        self._drop(token, self._evidence.refused(list(self.requests)))
        self._keep_held(token)
        # From here on these, and not the tombstones, say what goes: they outlive them in a crash.
        self._found.start(self._evidence.surveys(list(self.requests)))
        self._then, self._asked = self._index, frozenset(self.requests)
        for shard, keys in sorted(self._found.going().items()):
            self._hand(ForeseeRowsJob(job_id=_job_id(), shard=shard, keys=keys))
        rows, content = self._found.indexed()
        if rows:
            self._hand(ForeseeIndexJob(job_id=_job_id(), rows=rows, content=content))
        if not self.jobs:
            self.ended = True  # none of its requests was left

    def _index(self, token: int) -> None:
        self._keep_held(token)  # the last moment for a hold: from here on rows go
        if self._asked != frozenset(self.requests):  # some were kept back: others go than was worked out
            self._foresee(token)
            return
        self._means.recorder.propose(token, self._found.changes())
        self._then = self._rows
        rows, content = self._found.indexed()
        if rows:
            self._hand(PurgeIndexJob(job_id=_job_id(), rows=rows, content=content))
        else:
            self._rows(token)

    def _keep_held(self, token: int) -> None:
        for name, number in self._deletions.held(self._database.controls.holds()).items():
            self._drop(token, dict.fromkeys([name] if name else [*self.requests], f"legal hold {number}"))

    def _rows(self, token: int) -> None:
        self._then = self._look
        current = {sub.shard: sub for sub in self._database.registry.version().shards}
        for shard, keys in sorted(self._found.going().items()):
            sub = current[shard]
            refs = {record.blob for record in sub.checkpoints} | ({sub.blob} if sub.blob else set())
            names = {record.lineage_key for record in sub.checkpoints}
            blobs, lineage_keys = tuple(sorted(refs)), tuple(sorted(names))
            job = PurgeRowsJob(job_id=_job_id(), shard=shard, keys=keys, blobs=blobs, lineage_keys=lineage_keys)
            self._hand(job)
        if not self.jobs:
            self.ended = True  # none of its requests was left

    def _look(self, token: int) -> None:
        self._then = self._finish
        self._means.recorder.confirm(token, self._found.changed)
        self._means.recorder.keep()
        self._emptied = self._deletions.without_rows(list(self.requests), self._found.gone())
        self._means.journal.scrub(self._emptied, self._deletions.naming(self.requests))
        shards = tuple(sorted(self._found.going()))
        job = SearchJob(
            job_id=_job_id(),
            needles=tuple(sorted(self._found.needles())),
            purged_shards=shards,
            database=next(map(str, self._database.files()), ""),
            waiting=self._means.clean(token),
        )
        self._hand(job)

    def _finish(self, token: int) -> None:
        reach("purge.looked")
        needles = self._found.needles()
        self._database.measurements.drop_curves(token, needles)
        self._deletions.scrub(token, self._emptied, self._deletions.naming(self.requests))
        database = self._database.clean(needles, self._means.renew)
        self._means.certifier.certify(token, list(self.requests), self._found.summary(database))
        self.ended = True

    # ------------------------------------------------------------------ results and failures

    def take(self, token: int, job: Job, result: JobResult) -> None:
        """Take the result of one of its jobs.

        Args:
            token: The coordinator's fencing token.
            job: Which is done.
            result: What came of it.
        """
        if isinstance(result, ShardFailure):
            if result.retryable and self._attempts[type(job), job.shard] < self._means.max_attempts:
                self._hand(replace(job, job_id=_job_id()))  # an actor died, or the network: nothing of a request
                return
            shard = result.shard
            touched = [name for name, shards in self.requests.items() if shard is None or shard in shards]
            self.fail(token, touched, f"{_place(shard)}{result.error}")
        elif isinstance(result, ProofOutcome):
            surveys = [(request_id, Survey.from_json(text)) for request_id, text in result.surveys]
            self._evidence.save(token, result.shard, result.proofs, surveys)
            refused = {proof.request_id: proof.refused for proof in result.proofs if proof.refused}
            self._drop(token, {**dict.fromkeys(result.held, "a legal hold covers some of its rows"), **refused})
        elif isinstance(result, (ForeseeRowsOutcome, ForeseeIndexOutcome)):
            self._found.foresee(job.shard, result)
        elif isinstance(result, (PurgeRowsOutcome, PurgeIndexOutcome)):
            self._found.purged(job.shard, result)
        elif isinstance(result, SearchOutcome):
            self._found.looked = dict(result.looked)
            for file, held in result.found:
                why = f"{file} still names a purged row: {advice(file)}"
                self._drop(token, dict.fromkeys(self._found.holding(held), why))

    def fail(self, token: int, names: Collection[str], why: str) -> None:
        """Take requests out of the batch that failed together; from now on each of them is purged alone."""
        self._means.schedule.part(names)
        self._drop(token, dict.fromkeys(names, why))

    def _drop(self, token: int, reasons: Mapping[str, str]) -> None:
        """Take requests out of the batch, say why they are not PURGED, and try them again later."""
        mine = {name: f"not purged: {' '.join(why.split())}" for name, why in reasons.items() if name in self.requests}
        for name in mine:
            del self.requests[name]
        self._means.schedule.put_off(mine)
        self._found.leave_out(mine)
        if mine:
            try:
                self._deletions.note(token, mine)
            except DatabaseError as error:
                _log.warning("requests are not purged, and the ledger can't be told why: %s", error)

    def _hand(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        self._attempts[type(job), job.shard] += 1
        self._means.queue(job)


def _place(shard: int | None) -> str:
    return "" if shard is None else f"shard {shard}: "


def _job_id() -> str:
    return uuid.uuid4().hex
