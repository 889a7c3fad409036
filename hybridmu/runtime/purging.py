"""Purger: takes requests from SERVED and exact to PURGED, with a certificate each.

Stages of a batch, every one repeatable after a crash:

1. *prove*: each touched shard makes the evidence of its requests and surveys what will go; both are kept in the ledger.
2. *index*: rows leave the index files that all shards share.
3. *rows*: each shard rewrites its tables, and deletes every blob that the served version does not stand on.
4. *look*: storage, the database and the machines are searched; only then the ledger's tombstones are emptied, the
   database is compacted and searched too, the certificate is signed and appended, and the request is PURGED.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.engine import Engine

from hybridmu.core.certificate import RequestFacts, build, sign
from hybridmu.core.evidence import ShardEvidence, findings, refuse_unless
from hybridmu.errors import CertificateRefusedError, PurgeError
from hybridmu.runtime.executor import Executor
from hybridmu.runtime.site import Site
from hybridmu.store.certificates import Certificates
from hybridmu.store.controls import Controls
from hybridmu.store.deletions import Deletions
from hybridmu.store.keys import Keyring
from hybridmu.store.ledger import Ledger
from hybridmu.store.measurements import Measurements
from hybridmu.store.purge import Survey, look
from hybridmu.store.registry import Registry
from hybridmu.store.scrub import compact, look_in_database
from hybridmu.types import ForgetRequest, JobResult, ProofOutcome, PurgeOutcome, ShardFailure, ShardJob, Tombstone

_RETRY_SECONDS = 60.0
# What a purge itself may need before a deadline.
_MARGIN_SECONDS = 60.0
_EVIDENCE = TypeAdapter(ShardEvidence)

Queue = Callable[[ShardJob], None]


@dataclass
class _Batch:
    """Requests that are purged together."""

    requests: tuple[str, ...]
    stones: dict[int, list[Tombstone]]  # shard → what goes
    jobs: set[str] = field(default_factory=set)
    tables: int = 0
    files: int = 0

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self.stones)


class Purger:
    """Drives one batch at a time.

    Args:
        site: Storage and settings.
        engine: The database.
        executor: Asked for traces outside of storage.
        queue: Queues a job with the coordinator.
    """

    def __init__(self, site: Site, engine: Engine, executor: Executor, queue: Queue) -> None:
        self.site, self.executor = site, executor
        self._engine, self._queue = engine, queue
        self._ledger, self._registry, self._controls = Ledger(engine), Registry(engine), Controls(engine)
        self._measurements, self._deletions = Measurements(engine), Deletions(engine)
        self._certificates = Certificates(site.storage)
        self._keyring = Keyring(site.settings)
        self._batch: _Batch | None = None
        self._not_before = 0.0
        self._said: dict[str, str] = {}

    @property
    def shards(self) -> frozenset[int]:
        """Return the shards that a purge is at work on."""
        return self._batch.shards if self._batch else frozenset()

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of the running batch."""
        return self._batch is not None and job_id in self._batch.jobs

    def begin(self, token: int, busy: Collection[int]) -> None:
        """Start a batch of everything that is due on shards that nobody works on.

        Args:
            token: The coordinator's fencing token.
            busy: Shards with jobs.
        """
        if self._batch is not None or time.monotonic() < self._not_before:
            return
        holds = self._controls.holds()
        retention = self.site.settings.policy.retention_seconds
        found = self._deletions.purgeable(retention, _MARGIN_SECONDS, holds)
        self._say(token, {item.request_id: item.blocked for item in found if item.blocked})
        due = [item for item in found if item.blocked is None and item.shards.isdisjoint(busy)]
        if not due:
            return
        held = {hold.request_id for hold in holds}
        shards = frozenset().union(*(item.shards for item in due))
        exact = self._deletions.exact_stones(shards)
        going = {shard: [stone for stone in stones if stone.request_id not in held] for shard, stones in exact.items()}
        self._batch = _Batch(tuple(item.request_id for item in due), going)
        surveyed, unproven = self._deletions.surveys(), self._deletions.unproven(shards)
        for shard in sorted(shards):
            if shard not in surveyed or unproven[shard]:
                seen = {"stones": tuple(exact[shard]), "history": self._registry.history(shard)}
                self._send(self._job("prove", shard, requests=unproven[shard], **seen))
        if not self._batch.jobs:
            self._purge_index(token)

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of one of the batch's jobs, and go on to the next stage when it was the last."""
        batch = self._batch
        assert batch is not None
        batch.jobs.discard(result.job_id)
        try:
            if isinstance(result, ShardFailure):
                self._give_up(token, f"shard {result.shard}: {result.error}")
            elif isinstance(result, ProofOutcome):
                for _, document in result.evidence:
                    refuse_unless(list(findings(_EVIDENCE.validate_json(document))))
                self._deletions.save_proof(token, result.shard, result.evidence, result.survey)
                if not batch.jobs:
                    self._purge_index(token)
            elif isinstance(result, PurgeOutcome):
                batch.tables += result.tables
                batch.files += result.files
                if not batch.jobs and result.shard < 0:
                    self._purge_rows()
                elif not batch.jobs:
                    self._finish(token)
        except (PurgeError, CertificateRefusedError) as error:
            self._give_up(token, str(error))

    # ------------------------------------------------------------------ stages

    def _purge_index(self, token: int) -> None:
        surveys = self._surveys()
        keys = {(str(s.kind), s.key) for stones in self._stones().values() for s in stones}
        ids = {("id", row) for survey in surveys for row in survey.ids}
        content = sorted({row for survey in surveys for row in survey.content})
        if not keys and not ids:
            self._finish(token)
            return
        self._send(self._job("purge-index", -1, tombstones=tuple(sorted(keys | ids)), content=tuple(content)))

    def _purge_rows(self) -> None:
        current = {sub.shard: sub for sub in self._registry.version().shards}
        for shard, stones in sorted(self._stones().items()):
            sub = current[shard]
            refs = {record.blob for record in sub.checkpoints} | ({sub.blob} if sub.blob else set())
            keys = {record.lineage_key for record in sub.checkpoints}
            pairs = tuple((stone.kind, stone.key) for stone in stones)
            self._send(self._job("purge", shard, tombstones=pairs, keep=(tuple(sorted(refs)), tuple(sorted(keys)))))

    def _finish(self, token: int) -> None:
        batch, surveys = self._batch, self._surveys()
        assert batch is not None
        stones = [stone for found in batch.stones.values() for stone in found]
        needles = {needle for survey in surveys for needle in survey.needles} | {stone.key for stone in stones}
        looked: dict[str, Any] = {"storage": look(self.site.lake, needles, self._engine.url.database or "")}
        if traces := self.executor.traces(needles):
            raise PurgeError(f"{len(traces)} file(s) of the cluster name a purged row", got=", ".join(traces[:5]))
        fitted = self._measurements.calibration()
        kept = fitted.without({stone.key for stone in stones} | {row for survey in surveys for row in survey.ids})
        if kept != fitted:
            self._measurements.set_calibration(token, kept)
        self._deletions.scrub(token, {stone.seq for stone in stones})
        self._deletions.drop_surveys(token, batch.shards)
        compact(self._engine)
        looked["database"] = look_in_database(self._engine, needles)
        rows = sum(survey.rows for survey in surveys)
        purge = {"tables": batch.tables, "files": batch.files, "rows": rows, "looked": looked}
        for request_id in batch.requests:
            self._certify(token, self._ledger.request(request_id), purge)
        self._batch = None

    def _certify(self, token: int, request: ForgetRequest, purge: dict[str, Any]) -> None:
        last = self._certificates.last()
        if last is not None and last["request"]["id"] == request.request_id:  # written just before a crash
            number, purged_at = int(last["number"]), time.time()
        else:
            purged_at = time.time()
            assert request.applied_at is not None
            assert request.served_at is not None
            assert request.exact_at is not None
            document = build(
                previous=last,
                system=self._ledger.system(),
                request=RequestFacts(
                    id=request.request_id,
                    kind="forget",
                    received_at=request.received_at,
                    applied_at=request.applied_at,
                    served_at=request.served_at,
                    exact_at=request.exact_at,
                    purged_at=purged_at,
                    deadline_at=request.deadline_at,
                ),
                keys=self._deletions.revoked_keys(request.request_id),
                shards=[_EVIDENCE.validate_json(text) for text in self._deletions.evidence(request.request_id)],
                purge=purge,
                issued_at=purged_at,
            )
            number = self._certificates.append(sign(document, self._keyring.signing_key()))
        self._deletions.finish(token, request.request_id, number, purged_at)

    # ------------------------------------------------------------------ helpers

    def _stones(self) -> dict[int, list[Tombstone]]:
        assert self._batch is not None
        return self._batch.stones

    def _surveys(self) -> list[Survey]:
        assert self._batch is not None
        found = self._deletions.surveys()
        return [Survey.from_json(found[shard]) for shard in sorted(self._batch.shards)]

    def _job(self, strategy: Any, shard: int, **fields: Any) -> ShardJob:
        stones = self._stones().get(shard, [])
        pairs = tuple((stone.kind, stone.key) for stone in stones)
        return ShardJob(uuid.uuid4().hex, shard, strategy, **{"tombstones": pairs, **fields})

    def _send(self, job: ShardJob) -> None:
        assert self._batch is not None
        self._batch.jobs.add(job.job_id)
        self._queue(job)

    def _give_up(self, token: int, error: str) -> None:
        """Say why, and try again later; nothing that was removed comes back, nothing is PURGED that is not."""
        assert self._batch is not None
        requests, self._batch = self._batch.requests, None
        self._not_before = time.monotonic() + _RETRY_SECONDS
        self._say(token, dict.fromkeys(requests, f"not purged: {' '.join(error.split())}"))

    def _say(self, token: int, reasons: dict[str, str]) -> None:
        if fresh := {name: reason for name, reason in reasons.items() if self._said.get(name) != reason}:
            self._deletions.note(token, fresh)
            self._said |= fresh
