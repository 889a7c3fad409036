"""Findings of a purge's batch: what its jobs surveyed, foresaw, changed and found, and what follows from that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hybridmu.store.ledger.file_seals import Change
from hybridmu.types import (
    ForeseeIndexOutcome,
    ForeseeRowsOutcome,
    Key,
    KeySet,
    PurgeIndexOutcome,
    PurgeRowsOutcome,
)
from hybridmu.types.surveys import Survey


class PurgeFindings:
    """What is known of the rows that go.

    Attributes:
        surveys: (request, shard) → its rows there.
        changed: Files that are as foreseen.
        looked: What was searched, as the search tells it.
    """

    def __init__(self) -> None:
        self.surveys: dict[tuple[str, int], Survey] = {}
        self.changed: set[str] = set()
        self.looked: dict[str, Any] = {}
        # Shard, None for the indexes → file → its seal now and then.
        self._foreseen: dict[int | None, dict[str, Change]] = {}
        self._tables, self._files, self._twins = 0, 0, 0

    def start(self, surveys: Mapping[tuple[str, int], Survey]) -> None:
        """Begin with what was surveyed; nothing is foreseen yet."""
        self.surveys, self._foreseen = dict(surveys), {}

    def leave_out(self, requests: Collection[str]) -> None:
        """Drop the surveys of requests that are kept back."""
        self.surveys = {pair: survey for pair, survey in self.surveys.items() if pair[0] not in requests}

    def foresee(self, shard: int | None, outcome: ForeseeRowsOutcome | ForeseeIndexOutcome) -> None:
        """Take what the files of a shard, or the indexes, will hold."""
        self._foreseen[shard] = {name: (now, then) for name, now, then in outcome.seals}

    def purged(self, shard: int | None, outcome: PurgeRowsOutcome | PurgeIndexOutcome) -> None:
        """Take what was rewritten and deleted on a shard, or in the indexes."""
        self.changed |= self._foreseen[shard].keys()
        self._tables += outcome.tables
        if isinstance(outcome, PurgeRowsOutcome):
            self._files += outcome.files
        else:
            self._twins += outcome.twins

    def changes(self) -> dict[str, Change]:
        """Return file → its seal now and then, of all files."""
        return {name: change for files in self._foreseen.values() for name, change in files.items()}

    def going(self) -> dict[int, KeySet]:
        """Return shard → keys whose rows go."""
        found: dict[int, set[Key]] = {}
        for (_, shard), survey in self.surveys.items():
            found.setdefault(shard, set()).update(survey.keys)
        return {shard: KeySet(keys) for shard, keys in found.items()}

    def indexed(self) -> tuple[tuple[tuple[int, bytes], ...], tuple[bytes, ...]]:
        """Return what tells index jobs which rows go: (shard, id digest) of all, content digests of training rows."""
        rows = {(shard, id_) for (_, shard), survey in self.surveys.items() for id_ in survey.ids}
        content = {content for survey in self.surveys.values() for content in survey.content}
        return tuple(sorted(rows)), tuple(sorted(content))

    def gone(self) -> dict[int, set[Key]]:
        """Return shard → keys of which nothing is left there: those that go, and the ids of their rows."""
        found: dict[int, set[Key]] = {}
        for (_, shard), survey in self.surveys.items():
            found.setdefault(shard, set()).update(survey.keys, (("id", id_) for id_ in survey.ids))
        return found

    def needles(self) -> set[bytes]:
        """Return what must not be found anywhere any more."""
        return {needle for survey in self.surveys.values() for needle in survey.needles}

    def holding(self, needles: Collection[bytes]) -> list[str]:
        """Return the requests of which one of these was found."""
        return [name for (name, _), survey in self.surveys.items() if not survey.needles.isdisjoint(needles)]

    def summary(self, database: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a certificate says of the purge.

        Args:
            database: What was searched there.
        """
        return {
            "rows": sum(len(survey.rows) for survey in self.surveys.values()),
            "tables": self._tables,
            "files": self._files,
            "duplicates_left": self._twins,
            "looked": {"storage": self.looked, "database": database},
        }
