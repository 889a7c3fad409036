"""Evaluation of the served version in full, on held-out rows: metrics, confusion matrix and calibration; residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridmu.config import Settings
from hybridmu.core import evaluation, metrics, residuals
from hybridmu.core.evaluation import F64
from hybridmu.core.kernel.rows import Rows, concatenate
from hybridmu.core.learners.merging import answering
from hybridmu.core.targets import learned
from hybridmu.errors import StateError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.layout import HELD_OUT, Split
from hybridmu.store.ledger.database import Database
from hybridmu.types import NO_KEYS, KeySet
from hybridmu.user_code import contained


@contained()
def evaluate(settings: Settings) -> dict[str, Any]:
    """Return the quality of the served version on all live rows of every held-out table.

    Args:
        settings: The configuration.

    Returns:
        As `System.evaluate`.

    Raises:
        StateError: No row is held out, or no shard is left to vote.
    """
    site = Site(settings)
    site.configure_torch()
    database = Database.open(settings.database)
    database.identity.bind(settings.identity(), create=False)
    site.lake.compare_with(database.seals.known)
    version = database.registry.version()
    voters = [(sub.shard, sub.blob) for sub in version.shards if sub.blob is not None]
    if not voters:
        raise StateError("no shard is left to vote: every training row was forgotten")
    gone = {shard: KeySet.of(stones) for shard, stones in database.ledger.tombstones().items()}
    judgement, how, encoder = site.judgement, settings.serving.aggregation, site.lake.manifest.encoder
    targets = settings.data.targets
    models = [(shard, site.load_model(shard, blob)) for shard, blob in voters]
    asked, way = answering([model for _, model in models], how)
    splits: dict[str, Any] = {}
    for split in HELD_OUT:
        rows = _live(site, split, gone) if split in site.lake.manifest.rows else None
        if rows is None or not len(rows):
            continue
        labels = rows.y.numpy()
        logits = {
            model: evaluation.logits_of(model, rows, site.width).float()
            for model in {*asked, *(model for _, model in models)}
        }
        together = evaluation.combined_of(judgement, [logits[model] for model in asked], way)
        alone = [evaluation.combined_of(judgement, [logits[model]], way) for _, model in models]
        splits[split] = {
            "rows": len(rows),
            "ensemble": metrics.figures(together, labels, judgement.kind, targets),
            "sub_models": [
                {"shard": shard, **metrics.figures(one, labels, judgement.kind, targets)}
                for (shard, _), one in zip(models, alone, strict=True)
            ],
            **(_of_each_target(together, labels, targets) if targets else _of_classes(together, labels)),
        }
    if not splits:
        raise StateError(
            "no row is held out, so that nothing says how right the model is",
            expected="live rows of data.test or data.validation, or a share of the people: data.test_fraction",
            remedy="they belong to the tables that are trained on: name them before `hybridmu train`",
        )
    return {"version": version.version, **learned(encoder), "splits": splits}


def _of_classes(together: F64, labels: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "confusion": metrics.confusion(together, labels).tolist(),
        "calibration": [asdict(one) for one in metrics.calibration_curve(together, labels)],
        "labels": np.bincount(labels, minlength=together.shape[1]).tolist(),
    }


def _of_each_target(together: F64, outcomes: npt.NDArray[Any], targets: Sequence[str]) -> dict[str, Any]:
    if len(targets) == 1:
        return _of_numbers(together, outcomes)
    parts = metrics.of_each(together, outcomes, targets)
    return {"targets": {target: _of_numbers(*part) for target, part in parts.items()}}


def _of_numbers(together: F64, targets: npt.NDArray[Any]) -> dict[str, Any]:
    wide = targets.astype(np.float64)
    return {
        "predicted": asdict(residuals.grid(together, wide)),
        "residuals": asdict(residuals.residuals(together, wide)),
    }


def _live(site: Site, split: Split, gone: dict[int, KeySet]) -> Rows:
    return concatenate([site.lake.rows(split, s, gone.get(s, NO_KEYS)) for s in range(site.settings.sisa.shards)])
