"""Certifier: numbers, signs and writes the certificates of what was purged.

The numbers are in the ledger before a certificate is written, and what a certificate says follows from the ledger
alone: after a crash between the two the next coordinator writes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hybridmu.core.proof.certificate import RequestFacts, build, sign
from hybridmu.errors import StateError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.purge.purge_records import Passed
from hybridmu.types import ForgetRequest, RequestState
from hybridmu.verifier.document import Predecessor
from hybridmu.verifier.plain_data import parse
from hybridmu.verifier.shard_evidence import ShardEvidence
from hybridmu.verifier.typed_json import read


class Certifier:
    """Takes purged requests to PURGED, with a certificate each.

    Args:
        site: Storage and settings.
        database: Of the system.
        renew: Keeps the coordinator's lease during longer work.
    """

    def __init__(self, site: Site, database: Database, renew: Callable[[], None]) -> None:
        self.site, self._renew = site, renew
        self._identity, self._evidence = database.identity, database.evidence
        self._ledger, self._deletions, self._ingestions = database.ledger, database.deletions, database.ingestions
        self._certificates, self._keyring = Certificates(site.storage), Keyring(site.settings)
        self._journal = database.journal(site.storage)

    def certify(self, token: int, requests: Sequence[str], purge: Mapping[str, Any]) -> None:
        """Give requests the next numbers, write their certificates, and make them PURGED.

        Args:
            token: The coordinator's fencing token.
            requests: Ids of requests of which nothing is left.
            purge: What was deleted and how it was looked for; JSON.

        Raises:
            CertificateRefusedError: The evidence does not show a deletion; no number was given out.
            LeaseLostError: Another coordinator took over.
            StateError: The last certificate is missing, or the ledger does not know it.
        """
        last = self._certificates.last()
        first = 1 if last is None else int(last["number"]) + 1
        if (given := self._deletions.last_certificate()) != first - 1:
            raise StateError(
                "ledger and storage do not agree on the last certificate: no number was given out",
                expected=f"number {given}, the last one of the ledger",
                got=f"number {first - 1}" if last else "none",
                remedy="stop the coordinator and start it again: it says which of the two is older, and what to do",
            )
        passed = Passed(tuple((name, n) for n, name in enumerate(requests, start=first)), dict(purge), time.time())
        documents = self._documents(passed, last)  # whatever refuses one does so before a number is given out
        self._deletions.pass_(token, passed)
        self._issue(token, passed, documents)

    def resume(self, token: int) -> None:
        """Write the certificates that a crash or a failure left unwritten.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        passed = self._deletions.passed()
        if passed is not None:
            first = passed.numbers[0][1]
            last = self._certificates.get(first - 1) if first > 1 else None
            self._issue(token, passed, self._documents(passed, last))

    def _documents(self, passed: Passed, last: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Return the signed certificates; the same call gives the same bytes, unless the key was rotated since."""
        newest = self._certificates.last()  # after a crash, perhaps one of those that are made here
        signer = None if newest is None else str(newest["signature"]["key_id"])
        key = self._keyring.signing_key(signer, self._certificates.signers)
        found: list[dict[str, Any]] = []
        for request_id, number in passed.numbers:
            self._renew()
            request = self._ledger.request(request_id)
            if request.state is RequestState.PURGED:
                last = self._certificates.get(number)
            else:
                document = self._document(request, passed, last)
                last = self._certificates.written(number, request_id) or sign(document, key)
            found.append(last)
        return found

    def _document(self, request: ForgetRequest, passed: Passed, last: dict[str, Any] | None) -> dict[str, Any]:
        assert request.applied_at is not None
        assert request.served_at is not None
        assert request.exact_at is not None
        return build(
            previous=last,
            system=self._identity.system(),
            request=RequestFacts(
                id=request.request_id,
                kind="forget" if self._ingestions.of_request(request.request_id) is None else "correct",
                received_at=request.received_at,
                planned_at=request.planned_at,
                applied_at=request.applied_at,
                served_at=request.served_at,
                exact_at=request.exact_at,
                purged_at=passed.purged_at,
                deadline_at=request.deadline_at,
            ),
            keys=self._evidence.revoked_keys(request.request_id),
            shards=[read(ShardEvidence, parse(text.encode())) for text in self._evidence.documents(request.request_id)],
            purge=passed.purge,
            issued_at=passed.purged_at,
            predecessor=self._predecessor(),
        )

    def _predecessor(self) -> Predecessor | None:
        past = self.site.lake.manifest.ancestry
        if past is None:
            return None
        return Predecessor(
            system=past.system, version=past.version, tombstones=past.tombstones, rows=past.rows, root=past.root
        )

    def _issue(self, token: int, passed: Passed, documents: Iterable[Mapping[str, Any]]) -> None:
        for (request_id, number), document in zip(passed.numbers, documents, strict=True):
            self._renew()
            self._certificates.append(document)
            self._deletions.finish(token, request_id, number, passed.purged_at)
        self._journal.keep_seals()  # the last number: a ledger and a chain that are both older must not give it again
        self._deletions.end(token)
