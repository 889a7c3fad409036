"""Evidence of one shard for certificates, made from its rows and sub-models before a purge removes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from hybridmu.core.audit import measures
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.proof.evidence import exact_strategies, prove, refuse_unless, state_of
from hybridmu.core.proof.lineage import Lineage, Link
from hybridmu.core.proof.merkle import make_leaves, root
from hybridmu.errors import CertificateRefusedError, CorruptBlobError
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.oracle import seals_of, train_from_scratch
from hybridmu.types import NO_KEYS, KeySet, PastSubModel, Proof, ProveJob, RequestNeed, Tombstone
from hybridmu.verifier.plain_data import canonical
from hybridmu.verifier.shard_evidence import (
    Evidence,
    ShardEvidence,
    ShardState,
    SliceProof,
    Stage,
    findings,
    rechain,
)

Sampled = Callable[[str], bool]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Prover:
    """Makes the evidence of one shard, for all requests that need it: what they share is worked out once.

    Args:
        site: Rows and weights.
        job: Tombstones, history and requests of the shard.
        sampled: Whether a request's result is trained again and compared.
    """

    def __init__(self, site: Site, job: ProveJob, sampled: Sampled) -> None:
        self.site, self.shard, self.job, self.sampled = site, job.shard, job, sampled
        self.salt = site.lake.manifest.salt
        self.rows = site.lake.outline(job.shard, NO_KEYS)
        self._leaves = make_leaves(self.salt, self.rows.ids, self.rows.content)
        self._stones: dict[str, list[Tombstone]] = {}
        for stone in job.tombstones:
            self._stones.setdefault(stone.request_id, []).append(stone)
        self._states: dict[int, tuple[Mask, ShardState]] = {}
        self._roots: dict[tuple[int, bytes], str] = {}
        self._verified: dict[int, tuple[bool, str]] = {}
        self._models: dict[str, SubModel] = {}
        self._revoked: Rows | None = None

    def proof(self, need: RequestNeed) -> Proof:
        """Return the evidence of one request, or why there is none."""
        try:
            evidence = self.evidence(need)
        except CertificateRefusedError as error:
            return Proof(need.request_id, "", str(error))
        document = canonical(asdict(evidence)).decode()
        try:
            refuse_unless(list(findings(evidence, exact_strategies())))
        except CertificateRefusedError as error:
            return Proof(need.request_id, document, str(error))
        return Proof(need.request_id, document)

    def evidence(self, need: RequestNeed) -> ShardEvidence:
        """Return what a certificate of one request shows of this shard.

        Args:
            need: The request, and up to which tombstone it waits for this shard.

        Returns:
            Chains before and after, a proof per training row that the request revoked, and what was measured.

        Raises:
            CertificateRefusedError: The recorded lineage is not that of the rows, or a new training gives other bits.
        """
        exact = [past for past in self.job.history if past.sub.exact]
        after = next(past for past in exact if past.sub.exact_upto >= need.upto)
        # Rows that were revoked before any model was trained were never in one: nothing changed for them.
        before = next((past for past in reversed(exact) if past.sub.exact_upto < need.upto), after)
        own = self._stones.get(need.request_id, [])
        (seen, old), (left, new) = self._state(before), self._state(after)
        revoked = _carry(self.rows, own) & seen if before is not after else np.zeros_like(seen)
        earlier = [past for past in self.job.history if past.version < after.version]
        approximate = next((past for past in earlier if past.sub.removed_upto >= need.upto), None)
        stages = tuple(
            Stage(strategy=past.strategy, version=past.version, exact=past.sub.exact)
            for past in (approximate, after)
            if past is not None
        )
        # Weights that did not change show a removal only beside a training that never saw the rows.
        unchanged = bool((seen & ~left).any()) and old.weights == new.weights
        if self.sampled(need.request_id):
            verified, how = self._verify(after)
        else:
            verified, how = self._compared(after) if unchanged else (False, "not sampled by policy")
        if unchanged and verified:
            how += "; they are those from before: the rows had no influence on them"
        return ShardEvidence(
            shard=self.shard,
            stages=stages,
            before=old,
            after=new,
            proofs=self._proofs(seen, left, revoked),
            evidence=Evidence(
                verified="yes" if verified else "no",
                how=how,
                forget_loss_gap=None if approximate is None else self._gap(approximate, after, own),
                revoked_rows=int(revoked.sum()),
            ),
            exactness="integers" if self.site.learner.portable else "bits",
        )

    def _proofs(self, seen: Mask, left: Mask, revoked: Mask) -> tuple[SliceProof, ...]:
        if not revoked.any():
            return ()
        # The trees of other slices would be grown in vain.
        touched = np.isin(self.rows.slice, np.unique(self.rows.slice[revoked]))
        before, after = self.rows.where(seen & touched), self.rows.where(left & touched)
        return prove(before, after, self.rows.where(revoked), self.salt)

    def _state(self, past: PastSubModel) -> tuple[Mask, ShardState]:
        """Return which rows an exact sub-model was made of, and its chain from its recorded head.

        Raises:
            CertificateRefusedError: The keys that were recorded when it was trained are others.
        """
        if past.version in self._states:
            return self._states[past.version]
        sub = past.sub
        schedule = self.site.recipe_for(self.shard, sub.generations).epochs
        mask = ~_carry(self.rows, [stone for stone in self.job.tombstones if stone.seq <= sub.exact_upto])
        mask &= self.rows.slice <= len(schedule)  # later generations had not come yet
        links, start = [], 0
        for slice_, epochs in enumerate(schedule, start=1):
            stop = self.rows.upto(slice_)
            mine = mask[start:stop]
            known = (slice_, mine.tobytes())
            if known not in self._roots:
                self._roots[known] = root(self._leaves[start:stop][mine]).hex()
            links.append(Link(slice_, epochs, int(mine.sum()), self._roots[known]))
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
        state = state_of(chain, None if sub.blob is None else sub.blob.partition("/")[2])
        self._states[past.version] = mask, state
        return mask, state

    def _verify(self, past: PastSubModel) -> tuple[bool, str]:
        """Return whether a new training in a fresh process gave the same bits, and how that was found.

        Raises:
            CertificateRefusedError: It gave others.
        """
        verified, how = self._compared(past)
        if not verified and how == _DIFFERENT:
            raise CertificateRefusedError(
                f"shard {self.shard}: version {past.version} is not what training without the rows gives",
                expected="the same bits as a new training in a fresh process, on this machine",
                got="others",
                remedy="run `hybridmu verify`; it names the shard that has to be retrained",
            )
        return verified, how

    def _compared(self, past: PastSubModel) -> tuple[bool, str]:
        if past.version not in self._verified:
            self._verified[past.version] = self._replay(past.sub.head, past)
        return self._verified[past.version]

    def _replay(self, head: str | None, past: PastSubModel) -> tuple[bool, str]:
        site, sub = self.site, past.sub
        if head != site.head(self.shard):
            return False, "not replayable here: other code, libraries or machine than made it"
        gone = KeySet.of(stone for stone in self.job.tombstones if stone.seq <= sub.exact_upto)
        shards = {self.shard: sub.generations}
        states, seconds = train_from_scratch(
            site.settings, {self.shard: gone}, shards, 1, seals=seals_of(site, [self.shard])
        )
        how = f"trained anew in a fresh process in {seconds:.1f} s"
        try:
            ours = None if sub.blob is None else site.blobs.get(sub.blob)
        except CorruptBlobError:
            return False, f"{how}; the weights to compare were gone"
        return (
            (False, _DIFFERENT)
            if measures.differing_tensors(ours, states[self.shard])
            else (True, f"{how}; bits equal")
        )

    def _gap(self, approximate: PastSubModel, exact: PastSubModel, own: Sequence[Tombstone]) -> float | None:
        """Return the forget-loss gap of the approximate stage against the exact one; None without rows or weights."""
        revoked = self._rows_with_features()
        seen = revoked.slice <= len(self.site.recipe_for(self.shard, approximate.sub.generations).epochs)
        revoked = revoked.where(_carry(revoked, own) & seen)
        if not len(revoked) or approximate.sub.blob is None or exact.sub.blob is None:
            return None
        try:
            ours, oracle = self._model(approximate.sub.blob), self._model(exact.sub.blob)
        except CorruptBlobError:
            return None
        gap = measures.forget_loss_gap(ours, oracle, revoked, self.site.task)
        return gap if math.isfinite(gap) else None

    def _rows_with_features(self) -> Rows:
        """Return every row that a request in question revoked: this is their audit, the last to read them."""
        if self._revoked is None:
            asked = [stone for need in self.job.needs for stone in self._stones.get(need.request_id, ())]
            self._revoked = self.site.lake.rows("train", self.shard, KeySet.of(asked), only_revoked=True)
        return self._revoked

    def _model(self, blob: str) -> SubModel:
        if blob not in self._models:
            while len(self._models) >= _MODELS:
                self._models.pop(next(iter(self._models)))
            self._models[blob] = self.site.load_model(self.shard, blob)
        return self._models[blob]


_DIFFERENT = "the bits differ"
_MODELS = 4  # kept in memory: requests of one round share theirs


def _carry(rows: Rows, stones: Sequence[Tombstone]) -> Mask:
    return carries(rows.ids, rows.groups, KeySet.of(stones))
