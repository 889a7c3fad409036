"""Growth: makes generations of ingested rows, and says which shards have to be trained on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from hybridmu.errors import DataError, LeaseLostError
from hybridmu.kinds import FALLBACK
from hybridmu.planning.planner import Pools
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.generation import Beat
from hybridmu.store.dataset.ingest import admit, grow, with_generation
from hybridmu.store.dataset.lake import MissingFileError, OtherRowsError
from hybridmu.store.dataset.layout import Generation
from hybridmu.store.dataset.waiting_rows import rewrite, sweep
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ledger.ingestions import Ingestions
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.types import Ingestion, IngestState, ShardPlan, SubModelRecord
from hybridmu.user_code import told

# What could not be done is tried again after so long.
_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Grown:
    """What a step of growth asks for.

    Attributes:
        ingest_id: Whose rows came in.
        plans: Shards to train on them.
        requests_wait: Whether no round may start for a moment.
    """

    ingest_id: str | None = None
    plans: dict[int, ShardPlan] = field(default_factory=dict)
    requests_wait: bool = False


class Growth:
    """Brings new rows in, one ingestion after the other, in the order in which they were accepted.

    Everything may be repeated: a generation that an interrupted attempt left unnamed is made again from the copy, and
    slices that were trained are found by their lineage.

    Args:
        site: The lake and its storage.
        registry: The served version.
        ingestions: What waits.
        guard: What must not come in.
        planner: Plans the training of the new slices.
        recorder: Keeps what the lake's files hold.
    """

    def __init__(
        self,
        site: Site,
        registry: Registry,
        ingestions: Ingestions,
        guard: Guard,
        planner: RemovalPlanner,
        recorder: Recorder,
    ) -> None:
        self.site, self.registry, self.ingestions, self._recorder = site, registry, ingestions, recorder
        self._guard, self._planner = guard, planner
        self._not_before: dict[str, float] = {}  # ingestion → when it is tried again
        self._swept = False
        self._next = True  # it is the turn of rows

    def waiting(self) -> list[Ingestion]:
        """Return the ingestions whose rows could come in now, in order."""
        now = time.monotonic()
        return [new for new in self.ingestions.unfinished() if now >= self._not_before.get(new.ingest_id, 0.0)]

    def step(self, token: int, pools: Pools, flying: bool, beat: Beat) -> Grown:
        """Bring in what waits, if nothing flies.

        Requests and ingestions take turns: while rows wait no new round starts, so that those in flight come to an
        end; then what waits of the other kind starts.

        Args:
            token: The coordinator's fencing token.
            pools: How many jobs run at once.
            flying: Whether any round or purge is at work.
            beat: Keeps the lease.

        Returns:
            What to do now.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        if not self._swept:
            self.ingestions.adopt(token, self.site.lake.manifest.generations)
            self._sweep(token)
        waiting = self.waiting()
        if not waiting:
            return Grown()
        if flying:
            return Grown(requests_wait=True)
        if not self._next:
            self._next = True
            return Grown()
        self._next = False
        new = waiting[0]
        try:
            if new.generation is None and not self._make(token, new, beat):
                return Grown()
            plans = self._plans(self.ingestions.get(new.ingest_id), pools)
        except LeaseLostError:
            raise
        except Exception as error:  # a key, the disk, a row of the table: forgetting must go on meanwhile
            self.postpone(token, new.ingest_id, told(error))
            return Grown()
        if not plans:
            self.settle(token)
        return Grown(new.ingest_id, plans)

    def open(self) -> int:
        """Return how many ingestions are on their way to be served; those that wait for something do not count."""
        return len(self.waiting()) + len(self.ingestions.all(IngestState.APPLIED))

    def settle(self, token: int) -> None:
        """Mark what every shard was trained on by now as APPLIED."""
        made = [new for new in self.ingestions.all(IngestState.RECEIVED) if new.generation is not None]
        if not made:
            return
        version = self.registry.version()
        for new in made:
            if not self._behind(new, version.shards):
                self.ingestions.mark_applied(token, new.ingest_id, version.version)

    def postpone(self, token: int, ingest_id: str, reason: str) -> None:
        """Try an ingestion again later.

        Args:
            token: The coordinator's fencing token.
            ingest_id: Which.
            reason: Why it does not go on.
        """
        self._not_before[ingest_id] = time.monotonic() + _RETRY_SECONDS
        self.ingestions.note(token, ingest_id, " ".join(reason.split()))

    def forget_waiting(self, token: int) -> tuple[str, ...]:
        """Take rows out of the waiting copies that were forgotten since these were made.

        Args:
            token: The coordinator's fencing token.

        Returns:
            The names of the copies.
        """
        kept = []
        rewritten = []
        for new in self.ingestions.waiting():
            if not self._intact(token, new):
                continue
            if gone := rewrite(self.site.lake, new, self._guard, partial(self._propose, token, new.source)):
                self._recorder.confirm(token, [new.source])
                self.ingestions.skip(token, new.ingest_id, gone)
                rewritten.append(new.source)
            kept.append(new.source)
        if rewritten:
            self._recorder.keep()  # what the copies held before is of no use any more
        return tuple(kept)

    def _propose(self, token: int, name: str, seal: str) -> None:
        self._recorder.propose(token, {name: (self.site.lake.seal_of(name), seal)})

    def _intact(self, token: int, new: Ingestion) -> bool:
        """Return whether a waiting copy is the one that was accepted; otherwise its ingestion has FAILED.

        Nothing of it is in the lake, and who sent the rows can send them again; waiting for the right copy would hold
        up every purge.
        """
        try:
            self.site.lake.check(new.source)
        except (OtherRowsError, MissingFileError):
            reason = "its copy in storage was damaged, replaced or lost; nothing of it came in: send the rows again"
            self.ingestions.mark_failed(token, new.ingest_id, reason)
            self._sweep(token)
            return False
        return True

    def _make(self, token: int, new: Ingestion, beat: Beat) -> bool:
        """Return whether an ingestion has its generation now, after making it."""
        lake = self.site.lake
        lake.refresh()
        numbers = {found.ingest_id: number for number, found in enumerate(lake.manifest.generations)}
        if (number := numbers.get(new.ingest_id)) is not None:  # a crash came between manifest and ledger
            self._mark(token, new, number, lake.manifest.generations[number], (), lambda: None)
            return True
        self._guard.check()
        if not self._intact(token, new):
            return False
        try:
            grown = grow(lake, new, self._guard, beat, lambda: self.ingestions.fence(token))
        except DataError as error:
            self.ingestions.mark_failed(token, new.ingest_id, " ".join(str(error).split()))
            self._sweep(token)
            return False
        if grown is None:
            self.ingestions.mark_made(token, new, None, 0, new.rows + new.skipped, (), lambda: None)
            self.ingestions.mark_applied(token, new.ingest_id, self.registry.version().version)
            self._sweep(token)
            return False
        made, seals = grown
        manifest = with_generation(lake, made)
        names = self._recorder.propose_generation(token, seals, manifest)
        self._mark(token, new, len(numbers), made, names, lambda: admit(lake, manifest))
        return True

    def _mark(
        self,
        token: int,
        new: Ingestion,
        number: int,
        made: Generation,
        names: Collection[str],
        publish: Callable[[], None],
    ) -> None:
        self.ingestions.mark_made(token, new, number, made.count, made.skipped, names, publish)
        self._recorder.keep()
        self._sweep(token)

    def _plans(self, new: Ingestion, pools: Pools) -> dict[int, ShardPlan]:
        """Return the plans of shards that lack the rows of an ingestion."""
        behind = self._behind(new, self.registry.version().shards)
        if not behind:
            return {}
        plan = self._planner.plan(behind, FALLBACK, pools, None)
        reason = f"rows came in with {new.ingest_id}, generation {new.generation}"
        return {shard.shard: replace(shard, rule="ingest", reasons=(reason,)) for shard in plan.shards}

    def _behind(self, new: Ingestion, shards: Iterable[SubModelRecord]) -> list[int]:
        """Return the shards that got rows of an ingestion and were not trained on them."""
        assert new.generation is not None
        generation = self.site.lake.manifest.generations[new.generation]
        return [
            sub.shard for sub in shards if sub.generations <= new.generation and generation.has_rows("train", sub.shard)
        ]

    def _sweep(self, token: int) -> None:
        """Delete copies whose rows are in the lake, and those that nobody knows."""
        every = self.ingestions.all()
        waiting = {n.ingest_id for n in every if n.state is IngestState.RECEIVED and n.generation is None}
        sweep(self.site.lake, waiting, {new.ingest_id for new in every})
        self.ingestions.drop_seals(token)
        self._swept = True
