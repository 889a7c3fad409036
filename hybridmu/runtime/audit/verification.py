"""verify: compare the live sub-models with the oracle, bit for bit or, for approximate ones, by measured gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hybridmu.config import Settings
from hybridmu.core import evaluation
from hybridmu.core.audit import measures
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.rows import Rows, concatenate
from hybridmu.core.learners.merging import answering
from hybridmu.errors import RequestError
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.oracle import Watch, seals_of, train_from_scratch
from hybridmu.store.dataset.layout import Split
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.types import NO_KEYS, KeySet, SubModelRecord
from hybridmu.user_code import contained


@contained()
def verify(
    settings: Settings, shards: Sequence[int] | None = None, processes: int = 2, watch: Watch | None = None
) -> dict[str, Any]:
    """Retrain from scratch on the retained rows in fresh processes, and compare with what is live.

    Args:
        settings: The configuration.
        shards: Which shards; all by default.
        processes: Oracle processes that run at once.
        watch: Called with (shards done, shards in all) while they run.

    Returns:
        JSON-able report: `replayable` (same code, libraries, CPU, threads) per shard, `bitwise_equal` per shard and
        overall, `exact_claims_hold` (every shard that claims to be exact is; what decides whether the system is
        sound), `guarded_rows_in_lake` (live rows whose id or group is forgotten; must be 0, unknown while entries are
        lost with their key), and for approximate shards the two-sided forget-loss gap, accuracies and a membership
        attack's AUC. Of numbers there are skills in the place of accuracies.

    Raises:
        RequestError: A shard that does not exist, or none at all.
    """
    site = Site(settings)
    site.configure_torch()
    database = Database.open(settings.database)
    ledger, registry = database.ledger, database.registry
    database.identity.bind(settings.identity(), create=False)
    site.lake.compare_with(database.seals.known)
    version = registry.version()
    chosen = [sub for sub in version.shards if shards is None or sub.shard in set(shards)]
    if not chosen or (shards is not None and set(shards) - {sub.shard for sub in chosen}):
        raise RequestError(
            "there is nothing to verify", expected=f"shards 0 to {len(version.shards) - 1}", got=str(list(shards or ()))
        )
    tombstones = ledger.tombstones()
    gone = {
        sub.shard: KeySet.of(x for x in tombstones.get(sub.shard, []) if x.seq <= sub.removed_upto)
        for sub in version.shards
    }
    seals = seals_of(site, [sub.shard for sub in chosen])
    oracle, seconds = train_from_scratch(
        settings, gone, {sub.shard: sub.generations for sub in chosen}, processes, watch, seals
    )
    every = {shard: KeySet.of(stones) for shard, stones in tombstones.items()}
    test, figure = test_rows(site, every), site.judgement.figure
    report = []
    for sub in chosen:
        state = site.blobs.get(sub.blob) if sub.blob else None
        differing = measures.differing_tensors(state, oracle[sub.shard])
        entry: dict[str, Any] = {
            "shard": sub.shard,
            "exact": sub.exact,
            "bitwise_equal": not differing,
            "differing": list(differing),
            "empty": sub.blob is None,
            "replayable": _replayable(site, sub),
        }
        if not sub.exact:
            seen = sub.generations
            revoked = site.lake.rows("train", sub.shard, gone[sub.shard], only_revoked=True, generations=seen)
            entry |= _gaps(site, sub, state, oracle[sub.shard], revoked, test)
        report.append(entry)
    exact = [entry for entry in report if entry["exact"]]
    guard = database.guard(Keyring(settings))
    lost = sum(guard.lost().values())
    return {
        "version": version.version,
        "bitwise_equal": all(entry["bitwise_equal"] for entry in report),
        "exact_claims_hold": all(entry["bitwise_equal"] for entry in exact),
        "exact_shards": len(exact),
        "approximate_shards": len(report) - len(exact),
        figure: _ensemble_accuracy(site, {s.shard: _state(site, s) for s in chosen}, test),
        f"oracle_{figure}": _ensemble_accuracy(site, oracle, test),
        "oracle_seconds": seconds,
        "guarded_rows_in_lake": None if lost else guard.count(site.lake, every),
        "guard_entries_lost": lost,
        "shards": report,
    }


def test_rows(site: Site, gone: Mapping[int, KeySet]) -> Rows:
    """Return the live test rows of all shards (of validation, when there is no test table)."""
    split: Split = "test" if "test" in site.lake.manifest.rows else "validation"
    parts = [site.lake.rows(split, s, gone.get(s, NO_KEYS)) for s in range(site.settings.sisa.shards)]

    return concatenate(parts)


def accuracy_of(site: Site, records: Sequence[SubModelRecord], rows: Rows) -> float | None:
    """Return the ensemble's accuracy on rows, or None when there are none."""
    return _ensemble_accuracy(site, {sub.shard: _state(site, sub) for sub in records}, rows)


def _gaps(
    site: Site, sub: SubModelRecord, ours: State | None, oracle: State | None, revoked: Rows, test: Rows
) -> dict[str, Any]:
    if ours is None or oracle is None:
        return {}
    model, reference = _model(site, sub.shard, ours), _model(site, sub.shard, oracle)
    unseen = evaluation.losses(model, test, site.task)
    unseen_reference = evaluation.losses(reference, test, site.task)
    figures = {
        "forget_loss_gap": measures.forget_loss_gap(model, reference, revoked, site.task),
        site.judgement.figure: _accuracy(site, model, test),
        f"oracle_{site.judgement.figure}": _accuracy(site, reference, test),
        "attack_auc": measures.attack_auc(evaluation.losses(model, revoked, site.task), unseen),
        "oracle_attack_auc": measures.attack_auc(evaluation.losses(reference, revoked, site.task), unseen_reference),
        "revoked_rows": len(revoked),
    }
    # A loss may be no number for a row, and there may be no row: what is not known is null, in JSON too.
    return {name: value if value is None or math.isfinite(value) else None for name, value in figures.items()}


def _replayable(site: Site, sub: SubModelRecord) -> bool:
    """Return whether this process has the code, libraries, CPU and threads that made the shard's last exact run.

    Without them bit equality can't be expected, and a difference does not show a wrong deletion.
    """
    return sub.exact and (sub.blob is None or sub.head == site.head(sub.shard))


def _state(site: Site, sub: SubModelRecord) -> State | None:
    return site.blobs.get(sub.blob) if sub.blob else None


def _model(site: Site, shard: int, state: State) -> SubModel:
    model = site.fresh_model(shard).to("cpu")
    model.load_state_dict(state)
    return model


def _accuracy(site: Site, model: SubModel, rows: Rows) -> float | None:
    if len(rows) == 0:
        return None
    return site.judgement.metric(evaluation.logits_of(model, rows, 0), rows.y)


def _ensemble_accuracy(site: Site, states: dict[int, State | None], rows: Rows) -> float | None:
    models = [_model(site, shard, state) for shard, state in states.items() if state is not None]
    if not models or len(rows) == 0:
        return None
    asked, how = answering(models, site.settings.serving.aggregation)
    logits = [evaluation.logits_of(model, rows, site.width) for model in asked]
    votes = site.judgement.combine(torch.stack(logits), how)
    value = site.judgement.metric(votes, rows.y)
    return None if math.isnan(value) else value
