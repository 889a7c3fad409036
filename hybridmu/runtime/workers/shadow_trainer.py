"""Making and measuring the shadow models of one job, on a worker. Nothing is written: scores go back to the audit."""

from __future__ import annotations

import time
from contextlib import suppress

from hybridmu.core import evaluation
from hybridmu.core.audit import shadow_models
from hybridmu.core.audit.shadow_models import Ground, Score, Shadow
from hybridmu.core.kernel.model import State, SubModel, state_of
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.errors import CorruptBlobError
from hybridmu.runtime.workers.context import Site
from hybridmu.types import NO_KEYS, AuditJob, AuditOutcome, KeySet


def score_shadow_models(site: Site, job: AuditJob) -> AuditOutcome:
    """Make the shadow models of one number on one shard.

    Args:
        site: The system.
        job: Names the rows not to be read, canaries, strategy, α and number; and what is looked at: rows that were
            really revoked, the served sub-model, and the one before. Those rows are read for this audit of their
            removal, and never trained on.

    Returns:
        Scores; no weights, no ids.
    """
    started = time.perf_counter()
    site.expect(job)
    on = ground(site, job.shard, job.canaries, job.tombstones, job.generations)
    models, _ = shadow_models.make(on, job.number, job.strategy, job.alpha)
    canaries, task = on.context.revoked, site.task
    target = evaluation.mean_loss(models["nothing"], canaries, task)
    # Scores end with training on: what a model says of revoked rows is asked before.
    watched = _watched(site, job, on, on.model(state_of(models["nothing"])))
    scores = {kind: shadow_models.score(on, model, canaries, target) for kind, model in models.items()}
    found = Shadow(job.number, scores, watched)
    return AuditOutcome(job.job_id, job.shard, job.number, time.perf_counter() - started, found.to_json())


def ground(
    site: Site, shard: int, canaries: KeySet, tombstones: KeySet = NO_KEYS, generations: int | None = None
) -> Ground:
    """Return a shard's rows, as a removal of the canaries meets them.

    Args:
        site: The system.
        shard: Shard number.
        canaries: Keys of the rows that are removed.
        tombstones: Keys of the rows that are not read.
        generations: Of the first so many generations of rows; of all by default.
    """
    everything = site.lake.rows("train", shard, tombstones, generations=generations).to(site.device)
    mask = carries(everything.ids, everything.groups, canaries)
    live, seed = everything.where(~mask), site.settings.sisa.seed
    held_out = site.lake.rows("validation", shard, tombstones)
    # Of this shard alone: its purge is what deletes scores that saw a revoked row.
    unseen = site.lake.rows("test", shard, tombstones) if "test" in site.lake.manifest.rows else held_out

    context = site.strategy_context(
        shard, live, everything.where(mask), generations=generations, held_out=held_out.to(site.device)
    )
    points = [shadow_models.sample(rows, seed, shard).to(site.device) for rows in (live, unseen)]
    return Ground(context, everything, lambda drawn: site.fresh_model(shard, drawn), *points)


def _watched(site: Site, job: AuditJob, on: Ground, oracle: SubModel) -> dict[str, Score]:
    """Return scores on rows that were really revoked: by a model trained on the live rows, and by what is served."""
    if not job.watched or job.served_blob is None:
        return {}
    rows = site.lake.rows("train", job.shard, job.watched, only_revoked=True, generations=job.generations)
    rows = rows.to(site.device)
    if not len(rows):
        return {}
    models = {"oracle": oracle}
    if job.number == 0:
        states = {"served": _state(site, job.served_blob), "before": _state(site, job.before_blob)}
        models |= {name: on.model(state) for name, state in states.items() if state is not None}
    known = models.get("before") or models.get("served") or oracle
    target = evaluation.mean_loss(known, rows, site.task)
    return {name: shadow_models.score(on, model, rows, target) for name, model in models.items()}


def _state(site: Site, blob: str | None) -> State | None:
    """Return a stored sub-model; None when there is none, or a purge or an eviction took it meanwhile."""
    with suppress(CorruptBlobError):
        return site.blobs.get(blob) if blob else None
    return None
