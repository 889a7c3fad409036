"""Purger: takes requests from SERVED and exact to PURGED, with a certificate each.

Stages of a batch, every one repeatable after a crash:

1. *prove*: each touched shard makes evidence and surveys what will go; both are kept in the ledger.
2. *foresee*: what every file will hold without the rows is worked out, and recorded; until it is written, a file may
   hold either.
3. *index*: rows leave the index files that all shards share.
4. *rows*: each shard rewrites its tables, and deletes every blob that the served version does not stand on.
5. *look*: storage and the machines are searched.
6. *finish*: tombstones are emptied, the database is cleaned and searched too; then the requests are PURGED, with a
   certificate each (`certifying.py`).

What fails on one shard, or is found of one request, keeps those requests back, and no others.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hybridmu.errors import DatabaseError, HybridMUError, LeaseLostError
from hybridmu.faults import reach
from hybridmu.runtime.coordinator.certifier import Certifier
from hybridmu.runtime.purge.own_files import advice
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ledger.file_seals import Change
from hybridmu.store.ledger.operator_controls import Hold
from hybridmu.store.ledger.purge.purge_records import Purgeable
from hybridmu.types import (
    ForeseeIndexJob,
    ForeseeIndexOutcome,
    ForeseeRowsJob,
    ForeseeRowsOutcome,
    Job,
    JobResult,
    Key,
    KeySet,
    ProofOutcome,
    ProveJob,
    PurgeIndexJob,
    PurgeIndexOutcome,
    PurgeRowsJob,
    PurgeRowsOutcome,
    SearchJob,
    SearchOutcome,
    ShardFailure,
)
from hybridmu.types.surveys import Survey
from hybridmu.user_code import told

_log = logging.getLogger(__name__)
# When a request that could not be purged is tried again.
_RETRY_SECONDS = 60.0
# How often the ledger is asked while nothing is due.
_LOOK_SECONDS = 1.0
# What a purge itself may need before a deadline.
_MARGIN_SECONDS = 60.0
# How long a due purge waits for busy shards before no new work starts on them.
_PATIENCE_SECONDS = 60.0
# A certificate costs some milliseconds, and a step of the coordinator must end.
_MOST_REQUESTS = 200

Queue = Callable[[Job], None]
Stage = Callable[[int], None]
Clean = Callable[[int], tuple[str, ...]]


@dataclass
class _Batch:
    """Requests that are purged together."""

    requests: dict[str, frozenset[int]]  # request → its shards
    shards: frozenset[int]
    then: Stage  # what comes when the jobs are done
    jobs: dict[str, Job] = field(default_factory=dict)
    attempts: Counter[tuple[type[Job], int | None]] = field(default_factory=Counter)  # by kind of job and shard
    surveys: dict[tuple[str, int], Survey] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)  # tombstones without rows
    # Shard, None for the indexes → file → its seal now and then.
    foreseen: dict[int | None, dict[str, Change]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # files that are as foreseen
    asked: frozenset[str] = frozenset()  # for which requests that was worked out
    looked: dict[str, Any] = field(default_factory=dict)
    tables: int = 0
    files: int = 0
    twins: int = 0


class Purger:
    """Drives one batch at a time.

    Args:
        site: Storage and settings.
        database: Of the system.
        queue: Queues a job with the coordinator.
        renew: Keeps the coordinator's lease during longer work.
        clean: Takes forgotten rows out of the copies of new data that wait; returns their names.
        recorder: Keeps what the lake's files hold.
    """

    def __init__(
        self,
        site: Site,
        database: Database,
        queue: Queue,
        renew: Callable[[], None],
        clean: Clean,
        recorder: Recorder,
    ) -> None:
        self.site, self._recorder = site, recorder
        self._database, self._queue, self._renew, self._clean = database, queue, renew, clean
        self._registry, self._controls, self._replicas = database.registry, database.controls, database.replicas
        self._measurements, self._deletions, self._evidence = (
            database.measurements,
            database.deletions,
            database.evidence,
        )
        self._journal = database.journal(site.storage)
        self._certifier = Certifier(site, database, renew)
        self._batch: _Batch | None = None
        self._look_at = 0.0
        self._retry_at: dict[str, float] = {}
        self._proven: set[int] = set()  # shards whose refused evidence was made anew
        self._due_since: dict[str, float] = {}
        self._reserved: frozenset[int] = frozenset()
        self._alone: set[str] = set()  # requests that failed together: whose fault it was shows one by one

    @property
    def busy(self) -> bool:
        """Return whether a purge is at work, or has not yet looked whether there is one to do."""
        return self._batch is not None or self._look_at == 0.0

    @property
    def shards(self) -> frozenset[int]:
        """Return the shards on which nothing else may start: a purge is at work there, or waited for them too long."""
        return self._batch.shards if self._batch else self._reserved

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of the running batch."""
        return self._batch is not None and job_id in self._batch.jobs

    def wake(self) -> None:
        """Look at the next step: a request was served or became exact."""
        self._look_at = 0.0

    def begin(self, token: int, busy: Collection[int]) -> None:
        """Start a batch of everything that is due on shards that nobody works on.

        Args:
            token: The coordinator's fencing token.
            busy: Shards with jobs.
        """
        now = time.monotonic()
        if self._batch is not None or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if not self._guarded(token, self._certifier.resume):
            return
        holds = self._controls.holds()
        found = self._deletions.purgeable(
            self._replicas.confirmed(), self.site.settings.policy.retention_seconds, _MARGIN_SECONDS, holds
        )
        blocked = {item.request_id: item.blocked for item in found if item.blocked and item.blocked != item.noted}
        if blocked:
            self._deletions.note(token, blocked)
        self._retry_at = {name: at for name, at in self._retry_at.items() if at > now}
        due = [item for item in found if item.blocked is None and item.request_id not in self._retry_at]
        if joined := [item.request_id for item in due if not item.shards]:
            self._guarded(token, lambda token: self._end_joined(token, joined))
        due = [item for item in due if item.shards]
        self._wait_for(due, now)
        # A shard that was reserved for a purge counts as busy to all others.
        free = [item for item in due if item.shards.isdisjoint(busy)][:_MOST_REQUESTS]
        self._alone &= {item.request_id for item in found}
        free = [item for item in free if item.request_id in self._alone][:1] or free
        if free:
            self._guarded(token, lambda token: self._prove(token, free, holds))

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of one of the batch's jobs, and go on to the next stage when it was the last."""
        batch = self._batch
        assert batch is not None
        job = batch.jobs.pop(result.job_id)
        self._guarded(token, lambda token: self._take(token, batch, job, result))
        if not batch.jobs:
            if batch.requests:
                self._guarded(token, batch.then)
            else:
                self._end()

    # ------------------------------------------------------------------ stages

    def _end_joined(self, token: int, requests: Collection[str]) -> None:
        """End requests that revoked nothing themselves: nothing of them is left anywhere but in the ledger."""
        self._journal.scrub((), requests)
        self._deletions.end_joined(token, list(requests))
        self.wake()  # others may have waited for them

    def _prove(self, token: int, due: Collection[Purgeable], holds: Collection[Hold]) -> None:
        requests = {item.request_id: item.shards for item in due}
        shards = frozenset().union(*requests.values())
        batch = self._batch = _Batch(requests, shards, self._foresee)
        reach("purge.begin")
        stones = self._deletions.exact_stones(shards)
        # What did not show a deletion is looked at anew once per start: a person may have looked meanwhile.
        unproven = self._evidence.unproven(shards & self._proven) | self._evidence.unproven(
            shards - self._proven, again=True
        )
        self._proven |= shards
        held = self._deletions.stones_of([name for name in self._deletions.held(holds) if name])
        surveyed = self._evidence.surveyed(list(requests))
        since = {shard: min(need.upto for need in needs) for shard, needs in unproven.items() if needs}
        history = self._registry.history(since)
        going: dict[int, list[str]] = {shard: [] for shard in shards}
        for name, touched in requests.items():
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
        if not batch.jobs:
            self._guarded(token, batch.then)

    def _foresee(self, token: int) -> None:
        batch = self._at_work()
        self._drop(token, self._evidence.refused(list(batch.requests)))
        self._keep_held(token)
        # From here on these, and not the tombstones, say what goes: they outlive them in a crash.
        batch.surveys = self._evidence.surveys(list(batch.requests))
        batch.then, batch.asked, batch.foreseen = self._index, frozenset(batch.requests), {}
        for shard, keys in sorted(self._going().items()):
            self._hand(ForeseeRowsJob(job_id=_job_id(), shard=shard, keys=keys))
        rows, content = self._indexed()
        if rows:
            self._hand(ForeseeIndexJob(job_id=_job_id(), rows=rows, content=content))
        if not batch.jobs:
            self._end()  # none of its requests was left

    def _index(self, token: int) -> None:
        batch = self._at_work()
        self._keep_held(token)  # the last moment for a hold: from here on rows go
        if batch.asked != frozenset(batch.requests):  # some were kept back: others go than was worked out
            self._foresee(token)
            return
        changes = {name: change for files in batch.foreseen.values() for name, change in files.items()}
        self._recorder.propose(token, changes)
        batch.then = self._rows
        rows, content = self._indexed()
        if rows:
            self._hand(PurgeIndexJob(job_id=_job_id(), rows=rows, content=content))
        else:
            self._rows(token)

    def _keep_held(self, token: int) -> None:
        for name, number in self._deletions.held(self._controls.holds()).items():
            self._drop(token, dict.fromkeys([name] if name else [*self._at_work().requests], f"legal hold {number}"))

    def _indexed(self) -> tuple[tuple[tuple[int, bytes], ...], tuple[bytes, ...]]:
        """Return what tells index jobs which rows go: (shard, id digest) of all, content digests of training rows."""
        surveys = self._at_work().surveys
        rows = {(shard, id_) for (_, shard), survey in surveys.items() for id_ in survey.ids}
        content = {content for survey in surveys.values() for content in survey.content}
        return tuple(sorted(rows)), tuple(sorted(content))

    def _rows(self, token: int) -> None:
        batch = self._at_work()
        batch.then = self._look
        current = {sub.shard: sub for sub in self._registry.version().shards}
        for shard, keys in sorted(self._going().items()):
            sub = current[shard]
            refs = {record.blob for record in sub.checkpoints} | ({sub.blob} if sub.blob else set())
            names = {record.lineage_key for record in sub.checkpoints}
            blobs, lineage_keys = tuple(sorted(refs)), tuple(sorted(names))
            job = PurgeRowsJob(job_id=_job_id(), shard=shard, keys=keys, blobs=blobs, lineage_keys=lineage_keys)
            self._hand(job)
        if not batch.jobs:
            self._end()  # none of its requests was left

    def _look(self, token: int) -> None:
        batch = self._at_work()
        batch.then = self._finish
        self._recorder.confirm(token, batch.changed)
        self._recorder.keep()
        batch.emptied = self._emptied()
        self._journal.scrub(batch.emptied, self._deletions.naming(batch.requests))
        needles = {needle for survey in self._surveys() for needle in survey.needles}
        shards = tuple(sorted(self._going()))
        job = SearchJob(
            job_id=_job_id(),
            needles=tuple(sorted(needles)),
            purged_shards=shards,
            database=next(map(str, self._database.files()), ""),
            waiting=self._clean(token),
        )
        self._hand(job)

    def _finish(self, token: int) -> None:
        batch = self._at_work()
        reach("purge.looked")
        needles = {needle for survey in self._surveys() for needle in survey.needles}
        self._measurements.drop_curves(token, needles)
        self._deletions.scrub(token, batch.emptied, self._deletions.naming(batch.requests))
        database = self._database.clean(needles, self._renew)
        rows = sum(len(survey.rows) for survey in self._surveys())
        purge = {
            "rows": rows,
            "tables": batch.tables,
            "files": batch.files,
            "duplicates_left": batch.twins,
            "looked": {"storage": batch.looked, "database": database},
        }
        self._certifier.certify(token, list(batch.requests), purge)
        self._end()

    # ------------------------------------------------------------------ results and failures

    def _take(self, token: int, batch: _Batch, job: Job, result: JobResult) -> None:
        if isinstance(result, ShardFailure):
            if result.retryable and batch.attempts[type(job), job.shard] < self.site.settings.policy.max_attempts:
                self._hand(replace(job, job_id=_job_id()))  # an actor died, or the network: nothing of a request
                return
            shard = result.shard
            touched = [name for name, shards in batch.requests.items() if shard is None or shard in shards]
            self._fail(token, touched, f"{_place(shard)}{result.error}")
        elif isinstance(result, ProofOutcome):
            surveys = [(request_id, Survey.from_json(text)) for request_id, text in result.surveys]
            self._evidence.save(token, result.shard, result.proofs, surveys)
            refused = {proof.request_id: proof.refused for proof in result.proofs if proof.refused}
            self._drop(token, {**dict.fromkeys(result.held, "a legal hold covers some of its rows"), **refused})
        elif isinstance(result, (ForeseeRowsOutcome, ForeseeIndexOutcome)):
            batch.foreseen[job.shard] = {name: (now, then) for name, now, then in result.seals}
        elif isinstance(result, (PurgeRowsOutcome, PurgeIndexOutcome)):
            batch.changed |= batch.foreseen[job.shard].keys()
            batch.tables += result.tables
            if isinstance(result, PurgeRowsOutcome):
                batch.files += result.files
            else:
                batch.twins += result.twins
        elif isinstance(result, SearchOutcome):
            batch.looked = dict(result.looked)
            for file, held in result.found:
                names = [name for (name, _), survey in batch.surveys.items() if not survey.needles.isdisjoint(held)]
                why = f"{file} still names a purged row: {advice(file)}"
                self._drop(token, dict.fromkeys(names, why))

    def _guarded(self, token: int, do: Stage) -> bool:
        """Return whether something succeeded; whatever fails keeps the batch's requests back, and is tried again.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        try:
            do(token)
        except LeaseLostError:
            raise
        except Exception as error:  # the daemon must go on, whatever a driver, a disk or a file somebody made does
            known = isinstance(error, HybridMUError)
            _log.warning("a purge failed and is tried again: %s", error, exc_info=None if known else error)
            batch = self._batch
            if batch is None:
                self._look_at = time.monotonic() + _RETRY_SECONDS
            else:
                self._fail(token, list(batch.requests), told(error))
                if not batch.jobs:
                    self._end()
            return False
        return True

    def _fail(self, token: int, names: Collection[str], why: str) -> None:
        """Take requests out of the batch that failed together; from now on each of them is purged alone."""
        if len(names) > 1:
            self._alone.update(names)
        self._drop(token, dict.fromkeys(names, why))

    def _drop(self, token: int, reasons: Mapping[str, str]) -> None:
        """Take requests out of the batch, say why they are not PURGED, and try them again later."""
        batch = self._at_work()
        mine = {name: f"not purged: {' '.join(why.split())}" for name, why in reasons.items() if name in batch.requests}
        for name in mine:
            del batch.requests[name]
            self._retry_at[name] = time.monotonic() + _RETRY_SECONDS
        batch.surveys = {pair: survey for pair, survey in batch.surveys.items() if pair[0] not in mine}
        if mine:
            try:
                self._deletions.note(token, mine)
            except DatabaseError as error:
                _log.warning("requests are not purged, and the ledger can't be told why: %s", error)

    def _end(self) -> None:
        self._batch = None
        self.wake()  # more may have become due meanwhile

    # ------------------------------------------------------------------ helpers

    def _wait_for(self, due: Collection[Purgeable], now: float) -> None:
        """Reserve the shards of what waits for them too long: new requests would always come first."""
        self._due_since = {item.request_id: self._due_since.get(item.request_id, now) for item in due}
        late = [item for item in due if now - self._due_since[item.request_id] > _PATIENCE_SECONDS]
        self._reserved = frozenset().union(*(item.shards for item in late))

    def _at_work(self) -> _Batch:
        assert self._batch is not None
        return self._batch

    def _surveys(self) -> list[Survey]:
        return list(self._at_work().surveys.values())

    def _going(self) -> dict[int, KeySet]:
        """Return shard → keys whose rows go."""
        found: dict[int, set[Key]] = {}
        for (_, shard), survey in self._at_work().surveys.items():
            found.setdefault(shard, set()).update(survey.keys)
        return {shard: KeySet(keys) for shard, keys in found.items()}

    def _emptied(self) -> set[int]:
        """Return the tombstones that nothing carries any more: those of the batch, and others' of the same rows."""
        batch = self._at_work()
        gone: dict[int, set[Key]] = {}
        for (_, shard), survey in batch.surveys.items():
            gone.setdefault(shard, set()).update(survey.keys, (("id", id_) for id_ in survey.ids))
        return self._deletions.without_rows(list(batch.requests), gone)

    def _hand(self, job: Job) -> None:
        batch = self._at_work()
        batch.jobs[job.job_id] = job
        batch.attempts[type(job), job.shard] += 1
        self._queue(job)


def _place(shard: int | None) -> str:
    return "" if shard is None else f"shard {shard}: "


def _job_id() -> str:
    return uuid.uuid4().hex
