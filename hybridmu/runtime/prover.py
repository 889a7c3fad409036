"""Evidence of one shard for certificates, made from its rows and sub-models before a purge removes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hybridmu.core import audit
from hybridmu.core.evidence import Evidence, ShardEvidence, ShardState, Stage, prove
from hybridmu.core.lineage import Lineage, Link, rechain
from hybridmu.core.merkle import Leaves, make_leaves, root
from hybridmu.core.model import SubModel
from hybridmu.core.rows import Rows, carries
from hybridmu.errors import CertificateRefusedError, CorruptBlobError
from hybridmu.runtime.oracle import train_from_scratch
from hybridmu.runtime.site import Site
from hybridmu.types import PastSubModel, RequestNeed, ShardJob, Tombstone

Sampled = Callable[[str], bool]


class Prover:
    """Makes the evidence of one shard.

    Args:
        site: Rows and weights.
        job: Tombstones, history and requests of the shard.
        sampled: Whether a request's result is trained anew and compared.
    """

    def __init__(self, site: Site, job: ShardJob, sampled: Sampled) -> None:
        self.site, self.shard, self.job, self.sampled = site, job.shard, job, sampled
        self.salt = site.lake.manifest.salt
        self.rows = site.lake.outline(job.shard, set())
        self._verified: dict[int, tuple[bool, str]] = {}

    def evidence(self, need: RequestNeed) -> ShardEvidence:
        """Return what a certificate of one request shows of this shard.

        Args:
            need: The request, and up to which tombstone it waits for this shard.

        Returns:
            Chains before and after, a proof per training row that the request revoked, and what was measured.

        Raises:
            CertificateRefusedError: The recorded lineage is not that of the rows.
        """
        exact = [past for past in self.job.history if past.sub.exact]
        after = next(past for past in exact if past.sub.exact_upto >= need.upto)
        # Rows that were revoked before any model was trained were never in one: nothing changed for them.
        before = next((past for past in reversed(exact) if past.sub.exact_upto < need.upto), after)
        own = [stone for stone in self.job.stones if stone.request_id == need.request_id]
        rows_before, rows_after = self._rows_of(before), self._rows_of(after)
        revoked = rows_before.where(_carry(rows_before, own))
        earlier = [past for past in self.job.history if past.version < after.version]
        approximate = next((past for past in earlier if past.sub.removed_upto >= need.upto), None)
        stages = tuple(
            Stage(strategy=past.strategy, version=past.version, exact=past.sub.exact)
            for past in (approximate, after)
            if past is not None
        )
        verified, how = self._verify(after) if self.sampled(need.request_id) else (False, "not sampled by policy")
        return ShardEvidence(
            shard=self.shard,
            stages=stages,
            before=self._state(before, rows_before),
            after=self._state(after, rows_after),
            proofs=prove(rows_before, rows_after, revoked, self.salt) if before is not after else (),
            evidence=Evidence(
                verified="yes" if verified else "no",
                how=how,
                forget_loss_gap=None if approximate is None else self._gap(approximate, after, own),
                revoked_rows=len(revoked) if before is not after else 0,
            ),
        )

    def _rows_of(self, past: PastSubModel) -> Rows:
        """Return the rows that an exact sub-model was made of."""
        stones = [stone for stone in self.job.stones if stone.seq <= past.sub.exact_upto]
        return self.rows.where(~_carry(self.rows, stones))

    def _state(self, past: PastSubModel, rows: Rows) -> ShardState:
        """Return the chain of a sub-model from its recorded head and these rows.

        Raises:
            CertificateRefusedError: The keys that were recorded when it was trained are others.
        """
        sub = past.sub
        leaves: Leaves = make_leaves(self.salt, rows.ids, rows.content)
        links, start = [], 0
        for slice_, epochs in enumerate(self.site.recipe.epochs, start=1):
            stop = rows.upto(slice_)
            links.append(Link(slice_, epochs, stop - start, root(leaves[start:stop]).hex()))
            start = stop
        head = sub.head or ""
        chain = Lineage(head, tuple(links), rechain(head, links))
        wrong = [r.slice for r in sub.checkpoints if r.lineage_key != chain.keys[r.slice - 1]]
        if wrong:
            raise CertificateRefusedError(
                f"shard {self.shard}: version {past.version} was not made of the rows that are there",
                expected="the lineage keys that were recorded when it was trained",
                got=f"other keys from slice {wrong[0]} on",
                remedy="run `hybridmu verify`: the table or the ledger was changed from outside",
            )
        return ShardState.of(chain, None if sub.blob is None else sub.blob.partition("/")[2])

    def _verify(self, past: PastSubModel) -> tuple[bool, str]:
        """Return whether a new training in a fresh process gives the same bits, and how that was found."""
        if past.version not in self._verified:
            site, sub = self.site, past.sub
            gone = {(str(stone.kind), stone.key) for stone in self.job.stones if stone.seq <= sub.exact_upto}
            if sub.head != site.head(self.shard):
                result = (False, "not replayable here: other code, libraries or machine than made it")
            else:
                states, seconds = train_from_scratch(site.settings, {self.shard: gone}, [self.shard], 1)
                how = f"trained anew in a fresh process in {seconds:.1f} s"
                try:
                    ours = None if sub.blob is None else site.blobs.get(sub.blob)
                    same = not audit.differing_tensors(ours, states[self.shard])
                    result = (same, f"{how}; bits {'equal' if same else 'differ'}")
                except CorruptBlobError:
                    result = (False, f"{how}; the weights to compare were gone")
            self._verified[past.version] = result
        return self._verified[past.version]

    def _gap(self, approximate: PastSubModel, exact: PastSubModel, own: Sequence[Tombstone]) -> float | None:
        """Return the forget-loss gap of the approximate stage against the exact one; None without rows or weights."""
        site = self.site
        revoked = site.lake.rows("train", self.shard, {(str(s.kind), s.key) for s in own}, only_revoked=True)
        if not len(revoked) or approximate.sub.blob is None or exact.sub.blob is None:
            return None
        try:
            ours, oracle = (self._model(past.sub.blob) for past in (approximate, exact))
        except CorruptBlobError:
            return None
        return audit.forget_loss_gap(ours, oracle, revoked, site.task)

    def _model(self, blob: str | None) -> SubModel:
        assert blob is not None
        return self.site.load_model(self.shard, blob)


def _carry(rows: Rows, stones: Sequence[Tombstone]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return carries(rows.ids, rows.groups, {(str(stone.kind), stone.key) for stone in stones})
