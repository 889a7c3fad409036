"""Replay: trains what a certificate speaks of again, and says whether it is true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hybridmu.config import Settings
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.proof.lineage import chain
from hybridmu.errors import RequestError, StateError
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.oracle import seals_of, train_from_scratch
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.storage.blobs import weights_hash
from hybridmu.types import NO_KEYS, KeySet, SubModelRecord
from hybridmu.verifier.plain_data import fingerprint
from hybridmu.verifier.shard_evidence import ShardEvidence
from hybridmu.verifier.typed_json import read


class Verdict(StrEnum):
    """How a replay ends; each but the first outweighs those before it."""

    CONFIRMED = "confirmed"
    ELSEWHERE = "not replayable here"
    SUPERSEDED = "superseded"
    REFUTED = "refuted"


@dataclass(frozen=True)
class ShardReplay:
    """What became of one shard.

    Attributes:
        shard: Its number.
        verdict: How it ended.
        detail: Why.
        by: Of a superseded one: number of the later certificate.
    """

    shard: int
    verdict: Verdict
    detail: str
    by: int | None = None


@dataclass(frozen=True)
class Replay:
    """What became of a certificate.

    Attributes:
        verdict: The weightiest of its shards'.
        detail: In a sentence.
        by: Of a superseded one: number of the latest certificate that supersedes it.
        shards: One entry per shard.
    """

    verdict: Verdict
    detail: str
    by: int | None
    shards: tuple[ShardReplay, ...]


def replay(settings: Settings, document: Mapping[str, Any], processes: int = 2) -> Replay:
    """Train the shards of a certificate from scratch, in fresh processes, and compare their weights with what it says.

    A sub-model is trained again from the rows that are in the table now, as they were for the certificate's version:
    that is possible until a later certificate's purge takes some of them away.

    Args:
        settings: The configuration of the system that issued it.
        document: A certificate that holds by its own arithmetic (`verifier.checks.check`).
        processes: How many train at once.

    Returns:
        Confirmed, refuted, superseded by a later certificate, or not replayable here: made by other code, libraries,
        CPU or thread count.

    Raises:
        RequestError: It is of another system.
    """
    database = Database.open(settings.database)
    settings = database.identity.complete(settings)
    site = Site(settings)
    site.configure_torch()
    ledger, registry, certificates = database.ledger, database.registry, Certificates(site.storage)
    database.identity.bind(settings.identity(), create=False)
    site.lake.compare_with(database.seals.known)
    if document["system"] != database.identity.system():
        raise RequestError(
            "the certificate is of another system", expected=database.identity.system(), got=str(document["system"])
        )
    number = int(document["number"])
    known = certificates.written(number, document["request"]["id"])
    if known is None or fingerprint(known) != fingerprint(document):
        detail = f"the chain of this system has {'no' if known is None else 'another'} certificate {number}"
        return Replay(Verdict.REFUTED, detail, None, ())
    tombstones = ledger.tombstones()
    done: dict[int, ShardReplay] = {}
    asked: dict[int, tuple[ShardEvidence, int]] = {}
    gone: dict[int, KeySet] = {}
    for raw in document["shards"]:
        evidence = read(ShardEvidence, raw)
        shard = evidence.shard
        sub = _version_of(registry, evidence)
        keys = KeySet.of(s for s in tombstones.get(shard, []) if sub and s.seq <= sub.exact_upto)
        if sub is None or not _has_rows(site, evidence, sub, keys):
            done[shard] = _superseded(certificates, number, shard)
        elif evidence.after.head != site.head(shard):
            detail = "it was made by other code, libraries, CPU or thread count"
            done[shard] = ShardReplay(shard, Verdict.ELSEWHERE, detail)
        else:
            asked[shard], gone[shard] = (evidence, sub.generations), keys
    if asked:
        shards = {shard: generations for shard, (_, generations) in asked.items()}
        states, seconds = train_from_scratch(settings, gone, shards, processes, seals=seals_of(site, list(shards)))
        for shard, (evidence, _) in asked.items():
            state = states[shard]
            same = (None if state is None else weights_hash(state)) == evidence.after.weights
            detail = (
                f"trained anew in {seconds:.1f} s with all others; the weights are {'the' if same else 'not the'} same"
            )
            done[shard] = ShardReplay(shard, Verdict.CONFIRMED if same else Verdict.REFUTED, detail)
    return _summed_up([done[shard] for shard in sorted(done)])


def _version_of(registry: Registry, evidence: ShardEvidence) -> SubModelRecord | None:
    """Return the sub-model that the certificate speaks of."""
    try:
        version = registry.version(evidence.stages[-1].version)
    except StateError:
        return None
    return next((sub for sub in version.shards if sub.shard == evidence.shard and sub.exact), None)


def _has_rows(site: Site, evidence: ShardEvidence, sub: SubModelRecord, gone: KeySet) -> bool:
    """Return whether the table still has the very rows that the chain after the removal was made of."""
    rows = site.lake.outline(evidence.shard, NO_KEYS)
    schedule = site.recipe_for(evidence.shard, sub.generations).epochs
    rows = rows.where(~carries(rows.ids, rows.groups, gone) & (rows.slice <= len(schedule)))
    found = chain(evidence.after.head, rows, schedule, site.lake.manifest.salt)
    return found.keys == tuple(link.key for link in evidence.after.links)


def _superseded(certificates: Certificates, number: int, shard: int) -> ShardReplay:
    """Return the first later certificate that took rows from a shard; without one, the rows were changed unsaid."""
    for later in (n for n in certificates.numbers() if n > number):
        touched = {one["shard"] for one in certificates.get(later)["shards"] if one["proofs"]}
        if shard in touched:
            return ShardReplay(shard, Verdict.SUPERSEDED, f"certificate {later} took rows out of it", later)
    return ShardReplay(shard, Verdict.REFUTED, "its rows are others, and no later certificate says why")


def _summed_up(shards: list[ShardReplay]) -> Replay:
    order = list(Verdict)
    verdict = max((shard.verdict for shard in shards), key=order.index, default=Verdict.CONFIRMED)
    mine = [shard for shard in shards if shard.verdict is verdict]
    by = max((shard.by for shard in mine if shard.by is not None), default=None)
    numbers = ", ".join(str(shard.shard) for shard in mine)
    detail = {
        Verdict.CONFIRMED: "every shard was trained again, with the same bits",
        Verdict.ELSEWHERE: f"shard(s) {numbers}: made by other code, libraries, CPU or thread count",
        Verdict.SUPERSEDED: f"superseded by certificate {by}: shard(s) {numbers} lost rows since",
        Verdict.REFUTED: "; ".join(f"shard {shard.shard}: {shard.detail}" for shard in mine),
    }[verdict]
    return Replay(verdict, detail, by, tuple(shards))
