"""VersionEvaluator: the quality of versions on held-out rows, asking only sub-models that it has not asked before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hybridmu.core import evaluation, metrics
from hybridmu.core.kernel.partition import order_words
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Positions, Rows, concatenate
from hybridmu.core.learners.merging import MERGE, answering, combined_by
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.layout import HELD_OUT, Split
from hybridmu.store.dataset.shard_reader import ShardTables
from hybridmu.types import EvaluateJob, EvaluationOutcome, Figures, KeySet, Quality, SplitQuality
from hybridmu.user_code import contained

_KEPT_BYTES = 256 << 20


@dataclass(eq=False)
class _Held:
    """Held-out rows of one table, and what was computed for them.

    Attributes:
        rows: In the order of id digests.
        logits: Blob → answers of its sub-model, [rows, width].
        figures: Blob → metrics of its sub-model alone.
    """

    rows: Rows
    logits: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Return about how much memory it takes."""
        answers = sum(one.element_size() * one.nelement() for one in self.logits.values())
        return answers + self.rows.x.element_size() * self.rows.x.nelement()


class VersionEvaluator:
    """Evaluates versions one after the other. What a later one shares with an earlier one is not computed again.

    Args:
        site: The system.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._held: dict[Split, _Held] = {}

    def evaluate(self, job: EvaluateJob) -> EvaluationOutcome:
        """Return the quality of a version on every held-out table with live rows.

        Args:
            job: Names the sub-models; rows that carry one of its tombstones are not read, and leave memory.
        """
        started = time.perf_counter()
        self._site.expect(job)
        there = self._site.lake.manifest.rows
        splits = [self._on(split, job) for split in HELD_OUT if split in there]
        seconds = time.perf_counter() - started
        found = Quality(job.version, None, seconds, tuple(one for one in splits if one.rows))
        return EvaluationOutcome(job.job_id, found)

    def _on(self, split: Split, job: EvaluateJob) -> SplitQuality:
        site, held = self._site, self._hold(split, job.tombstones)
        if not len(held.rows) or not job.sub_models:
            return SplitQuality(split, 0, {}, {})
        kind, how, targets = site.judgement.kind, site.settings.serving.aggregation, site.settings.data.targets
        alone_how = combined_by(how)
        labels = held.rows.y.numpy()
        wanted = {blob for _, blob in job.sub_models}
        # What this version does not have, a later one won't have either.
        held.logits = {blob: one for blob, one in held.logits.items() if blob in wanted}
        held.figures = {blob: one for blob, one in held.figures.items() if blob in wanted}
        with contained():
            for shard, blob in job.sub_models:
                if blob not in held.logits:
                    model = site.load_model(shard, blob)
                    held.logits[blob] = evaluation.logits_of(model, held.rows, site.width).float()
                if blob not in held.figures:
                    alone = evaluation.combined_of(site.judgement, [held.logits[blob]], alone_how)
                    held.figures[blob] = metrics.figures(alone, labels, kind, targets)
            logits = [held.logits[blob] for _, blob in job.sub_models]
            if how == MERGE:
                [model], _ = answering([site.load_model(*sub) for sub in job.sub_models], how)
                logits = [evaluation.logits_of(model, held.rows, site.width).float()]
            combined = evaluation.combined_of(site.judgement, logits, alone_how)
            together = metrics.figures(combined, labels, kind, targets)
        alone_of = {shard: held.figures[blob] for shard, blob in job.sub_models}
        if held.bytes > _KEPT_BYTES:
            del self._held[split]
        return SplitQuality(split, len(labels), together, alone_of)

    def _hold(self, split: Split, tombstones: KeySet) -> _Held:
        """Return the live rows of a table: those in memory, as long as no other one has come."""
        lake = self._site.lake
        tables = [lake.shard(split, shard) for shard in range(lake.shards)]
        live = [np.flatnonzero(~carries(t.outline.ids, t.outline.groups, tombstones)) for t in tables]
        chosen = _first(tables, live, self._site.settings.evaluation.rows)
        wanted = [_names(table.outline.take(some)) for table, some in zip(tables, chosen, strict=True)]
        held = self._held.get(split)
        if held is not None:
            at = {name: position for position, name in enumerate(_names(held.rows))}
            if all(name in at for names in wanted for name in names):
                _keep(held, np.array(sorted(at[name] for names in wanted for name in names), dtype=np.int64))
                return held
        rows = concatenate([table.rows(some)[0] for table, some in zip(tables, chosen, strict=True)])
        self._held[split] = _Held(rows)
        return self._held[split]


def _first(tables: Sequence[ShardTables], live: Sequence[Positions], most: int | None) -> list[Positions]:
    """Return which rows of each table are asked about: those of the smallest keyed digests, which is by chance."""
    if most is None or sum(map(len, live)) <= most:
        return list(live)
    words = [order_words(table.outline.ids[some]) for table, some in zip(tables, live, strict=True)]
    last = np.partition(np.concatenate(words), most - 1)[most - 1]
    return [some[word <= last] for some, word in zip(live, words, strict=True)]


def _names(rows: Rows) -> list[bytes]:
    """Return what tells a row from all others, and from what it was before a correction."""
    return [name.tobytes() for name in np.hstack([rows.ids, rows.content])]


def _keep(held: _Held, positions: Positions) -> None:
    """Let rows go that are not live any more."""
    if len(positions) == len(held.rows):
        return
    held.rows = held.rows.take(positions)
    held.logits = {blob: one[torch.from_numpy(positions)] for blob, one in held.logits.items()}
    held.figures = {}
