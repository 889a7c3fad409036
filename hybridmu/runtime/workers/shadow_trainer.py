"""Making and measuring the shadow models of one job, on a worker. Nothing is written: scores go back to the audit."""

from __future__ import annotations

import time
from contextlib import suppress

from hybridmu.core import evaluation
from hybridmu.core.audit import shadow_models as shadow
from hybridmu.core.audit.shadow_models import Ground, Score
from hybridmu.core.kernel.model import State, SubModel, state_of
from hybridmu.core.kernel.rows import carries
from hybridmu.core.strategies import Context
from hybridmu.errors import CorruptBlobError
from hybridmu.runtime.workers.context import Site
from hybridmu.types import AuditOutcome, ShardJob


def run(site: Site, job: ShardJob) -> AuditOutcome:
    """Make the shadow models of one number on one shard.

    Args:
        site: The system.
        job: Names the rows not to be read (`tombstones`), canaries (`fresh`), strategy, α and number; and what is
            looked at: rows that were really revoked (`removed`), the served sub-model (`current_blob`), and the one
            before (`trajectory`). Those rows are read for this audit of their removal, and never trained on.

    Returns:
        Scores; no weights, no ids.
    """
    started = time.perf_counter()
    on = ground(site, job)
    models, _ = shadow.make(on, job.number, job.audited, job.alpha)
    canaries, task = on.context.revoked, site.task
    target = evaluation.mean_loss(models["nothing"], canaries, task)
    # Scores end with training on: what a model says of revoked rows is asked before.
    watched = _watched(site, job, on, on.model(state_of(models["nothing"])))
    scores = {kind: shadow.score(on, model, canaries, target) for kind, model in models.items()}
    found = shadow.Shadow(job.number, scores, watched)
    return AuditOutcome(job.job_id, job.shard, job.number, time.perf_counter() - started, found.to_json())


def ground(site: Site, job: ShardJob) -> Ground:
    """Return a shard's rows, as a removal of the canaries meets them.

    Args:
        site: The system.
        job: Names the rows not to be read (`tombstones`), the canaries (`fresh`) and the generations.
    """
    shard, settings, manifest = job.shard, site.settings, site.lake.manifest
    gone = {(str(kind), key) for kind, key in job.tombstones}
    site.expect(job)
    everything = site.lake.rows("train", shard, gone, generations=job.generations).to(site.device)
    mask = carries(everything.ids, everything.groups, {(str(kind), key) for kind, key in job.fresh})
    live, recipe = everything.where(~mask), site.recipe_for(shard, job.generations)
    held_out = site.lake.rows("validation", shard, gone)
    # Of this shard alone: its purge is what deletes scores that saw a revoked row.
    unseen = site.lake.rows("test", shard, gone) if "test" in manifest.rows else held_out

    def fresh(seed: int) -> SubModel:
        model = site.learner.initial(
            site.task,
            features=manifest.features,
            classes=len(manifest.encoder.classes),
            standardize=settings.data.standardize,
            seed=seed,
            shard=shard,
        )
        return model.to(site.device)

    context = Context(
        shard=shard,
        task=site.task,
        recipe=recipe,
        live=live,
        revoked=everything.where(mask),
        fresh_model=lambda: fresh(recipe.seed),
        checkpoint=lambda _: None,
        save=lambda *_: None,
        held_out=held_out.to(site.device),
        finetune_epochs=settings.policy.finetune_epochs,
        finetune_rate=settings.policy.finetune_lr * settings.optimizer.lr,
        learner=site.learner,
    )
    points = [shadow.sample(rows, recipe.seed, shard).to(site.device) for rows in (live, unseen)]
    return Ground(context, everything, fresh, *points)


def _watched(site: Site, job: ShardJob, on: Ground, oracle: SubModel) -> dict[str, Score]:
    """Return scores on rows that were really revoked: by a model trained on the live rows, and by what is served."""
    if not job.removed or job.current_blob is None:
        return {}
    keys = {(str(kind), key) for kind, key in job.removed}
    rows = site.lake.rows("train", job.shard, keys, only_revoked=True, generations=job.generations).to(site.device)
    if not len(rows):
        return {}
    models = {"oracle": oracle}
    if job.number == 0:
        states = {"served": _state(site, job.current_blob), "before": _state(site, *job.trajectory[-1:])}
        models |= {name: on.model(state) for name, state in states.items() if state is not None}
    known = models.get("before") or models.get("served") or oracle
    target = evaluation.mean_loss(known, rows, site.task)
    return {name: shadow.score(on, model, rows, target) for name, model in models.items()}


def _state(site: Site, *blobs: str) -> State | None:
    """Return a stored sub-model; None when there is none, or a purge or an eviction took it meanwhile."""
    for blob in blobs:
        with suppress(CorruptBlobError):
            return site.blobs.get(blob)
    return None
