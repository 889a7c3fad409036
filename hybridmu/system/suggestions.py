"""Suggestions: a few ways to train are tried on a sample, and compared by quality and by what a deletion costs."""

from __future__ import annotations

import hashlib
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.config import Settings
from hybridmu.config.data import DataSettings
from hybridmu.core.kernel.partition import Digests, digests, held_out
from hybridmu.core.metrics import shown
from hybridmu.errors import StateError
from hybridmu.kinds import AUTO, FALLBACK, LEARNER_OF_TASK
from hybridmu.planning.default_settings import TableFacts, default_settings
from hybridmu.planning.price_list import Candidate, Offer, Price, candidates, front
from hybridmu.store.dataset.source_table import SourceTable, open_table
from hybridmu.system.arguments import Callback, Count, Figure, checked
from hybridmu.system.chosen_settings import chosen, facts_of
from hybridmu.system.deletion_requests import DeletionRequests
from hybridmu.system.session import Session
from hybridmu.system.training_runs import TrainingRuns
from hybridmu.types import Plan

_PLANS = 12  # deletions that a mean is taken of
_TEST_ROWS = 5_000
_EXACTNESS = "exact: the bits of a training without the rows"

Progress = Callable[[int, int, str], None]


class Suggestions:
    """Trials of other ways to train the same rows.

    Args:
        session: The system whose configuration is the first way.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def suggest(
        self,
        *,
        rows: Count = 20_000,
        seconds: Figure = 300.0,
        watch: Annotated[Progress | None, Callback] = None,
    ) -> dict[str, Any]:
        """Return a price list: quality of each way to train, and what it costs to forget a row, a person, a hundredth.

        Every way is trained in a folder of its own that is thrown away; the system itself is neither needed nor
        changed. Seconds are of this machine, one worker, and in proportion to all rows where a sample was tried.
        Costs are the means of plans, which rest on what the training took; one deletion is really made.

        Args:
            rows: Training rows that are tried with at most, all rows of a person or none, drawn by a hash.
            seconds: When no further way is begun.
            watch: Called with (ways tried, ways in all, name of the next one).

        Returns:
            JSON-able: `offers`, best score first, each with `front` (no other one is better in both); `metrics`, the
            names of score and loss; what was not tried; and the rows.

        Raises:
            StateError: No row is held out, so that nothing says which way is better.
        """
        session, started = self._session, time.perf_counter()
        # A trained system's own way is what it was trained with.
        settings = session.settings if session.lake.exists else session.given
        with self._sample(settings, rows) as (tables, share, tried):
            facts = facts_of(settings)
            sisa = chosen(settings, facts).sisa
            wanted = candidates(tried, (sisa.shards, sisa.slices), _other_recipe(settings, facts))
            offers: list[Offer] = []
            for number, candidate in enumerate(wanted):
                if offers and time.perf_counter() - started > seconds:
                    break
                if watch:
                    watch(number, len(wanted), candidate.name)
                offers.append(_tried(settings, facts, candidate, tables, share))
        best = front(offers)
        offers.sort(key=lambda offer: -offer.score)
        return {
            "offers": [
                {**asdict(offer), "name": offer.candidate.name, "front": offer.candidate.name in best}
                for offer in offers
            ],
            "metrics": ["r2", "rmse"] if settings.data.target else ["accuracy", "log_loss"],
            "untried": [one.name for one in wanted[len(offers) :]],
            "rows": tried,
            "share": share,
            "seconds": time.perf_counter() - started,
        }

    @contextmanager
    def _sample(self, settings: Settings, rows: int) -> Iterator[tuple[dict[str, Any], float, int]]:
        """Yield the sampled tables by their keys under `data`, the share of rows in them, and their number."""  # noqa: DOC501
        data = settings.data
        if not (data.test or data.validation or data.validation_fraction or data.first_test_fraction):
            raise StateError(
                "no row is held out, so that nothing says which way is better",
                expected="data.test or data.validation, or a share of the people: data.test_fraction",
                remedy="add one of them to the configuration",
            )
        folder = Path(tempfile.mkdtemp(prefix="hybridmu-suggest-"))
        try:
            train = open_table(data.train)
            share = min(1.0, rows / max(1, train.rows))
            # Another key than the partition's, or the sample would be of rows that are held out.
            key = hashlib.blake2b(b"suggest", key=settings.partition_key()).digest()
            tried = _write(train, folder / "train.parquet", data, share, key)
            tables: dict[str, Any] = {"train": str(folder / "train.parquet")}
            for split in ("test", "validation"):
                if url := getattr(data, split):
                    table = open_table(url)
                    most = min(1.0, _TEST_ROWS / max(1, table.rows))
                    _write(table, folder / f"{split}.parquet", data, most, key)
                    tables[split] = str(folder / f"{split}.parquet")
            yield tables, tried / max(1, train.rows), tried
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _write(table: SourceTable, path: Path, data: DataSettings, share: float, key: bytes) -> int:
    """Return how many rows were written: those of owners whose hash is below a share."""
    written = 0
    with pq.ParquetWriter(path, pa.schema(list(table.types.items()))) as file:
        for batch in table.batches(table.names):
            if share < 1.0:
                batch = batch.filter(pa.array(held_out(_owners(batch, data, key), share)))
            file.write_table(batch)
            written += len(batch)
    return written


def _owners(batch: pa.Table, data: DataSettings, key: bytes) -> Digests:
    """Return whom each row belongs to: its group, or itself where there is none."""
    ids = digests(key, "id", batch.column(data.id).to_pylist())
    if data.group is None or data.group not in batch.column_names:
        return ids
    groups = batch.column(data.group).to_pylist()
    there = np.array([group is not None for group in groups])
    ids = ids.copy()
    ids[there] = digests(key, "group", [group for group in groups if group is not None])
    return ids


def _tried(settings: Settings, facts: TableFacts, candidate: Candidate, tables: dict[str, Any], share: float) -> Offer:
    """Return what one way to train is worth: it is trained, measured, planned with, and one deletion is made."""
    folder = Path(tempfile.mkdtemp(prefix="hybridmu-suggest-"))
    try:
        # Epochs and batches are those for all rows: prices are in proportion to them.
        trial = chosen(_settings(settings, candidate, tables, folder), facts)
        with closing(Session(trial, "local")) as session:
            trained = TrainingRuns(session).train()
            work = session.measurements.effort()[0]
            quality = next(found for split, found in trained["quality"].items() if split in {"test", "validation"})
            ids = _keys(tables["train"], settings.data.id)
            requests = DeletionRequests(session)
            exactly = _exactly(settings)
            if exactly == AUTO:  # the planner knows what a subtraction takes once one was made
                requests.forget(ids=ids[-1:], wait=True)
            people = _keys(tables["train"], settings.data.group) if settings.data.group else []
            row = _mean([requests.plan(ids=[one], strategy=exactly) for one in ids[:_PLANS]], share)
            person = _mean([requests.plan(groups=[one], strategy=exactly) for one in people[:_PLANS]], share)
            many = requests.plan(ids=ids[: max(1, len(ids) // 100)], strategy=exactly)
            made = requests.forget(ids=ids[:1], strategy=exactly, wait=True)
        first, second = shown(quality["ensemble"])
        alone = [found[first] for found in quality["sub_models"] if found[first] is not None]
        hundredth = _mean([many], share)
        assert row is not None
        assert hundredth is not None
        return Offer(
            candidate,
            _known(quality["ensemble"][first], -math.inf),
            _known(quality["ensemble"][second], math.inf),
            statistics.fmean(alone) if alone else -math.inf,
            work / share,
            row,
            person,
            hundredth,
            _EXACTNESS,
            sum(shard["measured_seconds"] for shard in made["shards"]) / share,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exactly(settings: Settings) -> str:
    """Return what a request for an exact deletion asks for: where all ways are exact, the faster one."""
    return AUTO if settings.task.name in LEARNER_OF_TASK else FALLBACK


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _other_recipe(settings: Settings, facts: TableFacts) -> dict[str, dict[str, Any]] | None:
    """Return the recipe that a configuration with an optimizer does without; None where it is its own."""
    if not settings.optimizer.model_fields_set or settings.task.name in LEARNER_OF_TASK:
        return None
    found = default_settings(facts, {"task": {"name": settings.task.name}})
    other = {"optimizer": found["optimizer"], "data": {"standardize": found["data"]["standardize"]}}
    own = settings.optimizer.name == other["optimizer"]["name"]
    return None if own and settings.data.standardize == other["data"]["standardize"] else other


def _settings(settings: Settings, candidate: Candidate, tables: dict[str, Any], folder: Path) -> Settings:
    """Return the configuration of a trial: other tables, storage and keys; nothing of the real system."""
    raw = settings.model_dump(mode="json", exclude={"database_url", "keys", "cluster"}, exclude_unset=True)
    raw["storage_url"] = str(folder / "storage")
    raw["data"] |= {**tables, "name": None, "partition_key": "seed"}
    raw["data"]["test_fraction"] = settings.data.first_test_fraction  # said, or what is dumped would say there is none
    raw["policy"] = {
        **raw.get("policy", {}),
        **{"calibrate": False, "deadline_seconds": None, "strategy": _exactly(settings), "retention_seconds": 1e9},
    }
    for section, keys in candidate.changes.items():
        raw[section] = {**raw.get(section, {}), **keys}
    raw["sisa"]["min_rows"] = 0
    raw["serving"] = {**raw.get("serving", {}), "groups": min(settings.serving.groups, raw["sisa"]["shards"])}
    return Settings.parse(raw)


def _keys(path: str, column: str) -> list[Any]:
    """Return the values of a key column, each once, in an order that says nothing."""
    found = pq.read_table(path, columns=[column])[column].unique().drop_null().to_pylist()
    order = np.random.default_rng(0).permutation(len(found))
    return [found[at] for at in order]


def _mean(plans: Sequence[Plan], share: float) -> Price | None:
    """Return the mean price of some plans, in proportion to all rows."""
    if not plans:
        return None
    longest = [max((shard.estimated_seconds for shard in plan.shards), default=0.0) for plan in plans]
    together = [sum(shard.estimated_seconds for shard in plan.shards) for plan in plans]
    return Price(statistics.fmean(longest) / share, statistics.fmean(together) / share)
