"""Evidence of a real system: its recorded lineage, a deletion, and the certificate of it."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybridmu.core.kernel.partition import digests, place
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.proof.certificate import RequestFacts, build, sign
from hybridmu.core.proof.evidence import prove, state_of
from hybridmu.core.proof.lineage import lineage
from hybridmu.errors import CertificateRefusedError
from hybridmu.types import SubModelRecord
from hybridmu.verifier.checks import check
from hybridmu.verifier.shard_evidence import Evidence, ShardEvidence, Stage
from tests import reference_certificate as reference
from tests.sample_certificates import KEYS, PURGE

SLICES = 3


@pytest.fixture
def system(local_system, make_table):
    make_table(120)
    with local_system(sisa={"shards": 2, "slices": SLICES}) as system:
        system.train()
        yield system


def outline(system, sub: SubModelRecord):
    stones = system.ledger.tombstones([sub.shard]).get(sub.shard, [])
    return system.site.lake.outline(sub.shard, {(x.kind, x.key) for x in stones if x.seq <= sub.exact_upto})


def chain(system, sub: SubModelRecord, rows=None):
    site = system.site
    rows = outline(system, sub) if rows is None else rows
    return lineage(site.lineage_static(), rows, site.recipe_for(sub.shard), sub.shard, site.lake.manifest.salt)


def test_what_a_worker_records_follows_from_the_rows_after_every_deletion(system):
    # The worker keeps leaves between its jobs; here they are made anew.
    for ids in ([], [3, 4, 5], list(range(10, 40)), [77]):
        if ids:
            system.forget(ids=ids, strategy="retrain", wait=True)
        for sub in system.registry.version().shards:
            found = chain(system, sub)
            assert sub.head == found.head == system.site.head(sub.shard)
            assert [record.lineage_key for record in sub.checkpoints] == list(found.keys)


def test_a_shard_that_lost_all_its_rows_keeps_a_head(system):
    sub = system.registry.version().shards[0]
    shards, _ = place(digests(system.site.lake.key, "id", range(120)), 2, SLICES)
    system.forget(ids=np.flatnonzero(shards == 0).tolist(), wait=True, strategy="retrain")
    emptied = system.registry.version().shards[0]
    assert (emptied.blob, emptied.checkpoints, emptied.head) == (None, (), sub.head)
    assert chain(system, emptied).counts == (0,) * SLICES


def evidence_of(system, old: SubModelRecord, new: SubModelRecord, before, after) -> ShardEvidence:
    revoked = before.where(~carries(before.ids, before.groups, {("id", row.tobytes()) for row in after.ids}))
    return ShardEvidence(
        shard=old.shard,
        stages=(Stage(strategy="retrain", version=2, exact=True),),
        before=state_of(chain(system, old, before), old.blob.partition("/")[2]),
        after=state_of(chain(system, new, after), new.blob.partition("/")[2]),
        proofs=prove(before, after, revoked, system.site.lake.manifest.salt),
        evidence=Evidence(verified="no", how="not sampled", forget_loss_gap=None, revoked_rows=len(revoked)),
    )


def test_a_deletion_is_certified_and_its_claim_without_work_is_refused(system):
    old = system.registry.version().shards
    before = [outline(system, sub) for sub in old]
    system.forget(ids=[1, 2, 3, 50], strategy="retrain", wait=True)
    new = system.registry.version().shards
    after = [outline(system, sub) for sub in new]
    facts = RequestFacts("request-1", "forget", 1.0, 2.0, 3.0, 4.0, 5.0)

    def made(subs):
        shards = [evidence_of(system, a, b, x, y) for a, b, x, y in zip(old, subs, before, after, strict=True)]
        return build(previous=None, system="5", request=facts, keys=KEYS, shards=shards, purge=PURGE, issued_at=6.0)

    document = sign(made(new), Ed25519PrivateKey.generate())
    found = check(document)
    assert found.ok, [finding for finding in found.items if not finding.ok]
    reference.check(document)
    assert sum(len(shard["proofs"]) for shard in document["shards"]) == 4
    links = [link["key"] for shard in document["shards"] for link in shard["after"]["links"]]
    assert links == [record.lineage_key for sub in new for record in sub.checkpoints]
    with pytest.raises(CertificateRefusedError, match="as before"):
        made(old)  # the rows are tombstoned, but the old weights are still what answers
