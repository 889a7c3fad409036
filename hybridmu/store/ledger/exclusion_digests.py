"""Digests for exclusion manifests: which forgotten ids and groups a version is without."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.types import KeyKind, RequestState


@dataclass(frozen=True)
class Listed:
    """What a version is without.

    Attributes:
        digests: (id of the guard key, kind) → digests of 32 bytes.
        unlisted: Entries without a digest, of an earlier release.
        later: Entries of requests that the version still knows.
    """

    digests: dict[tuple[str, KeyKind], list[bytes]]
    unlisted: int
    later: int


class ExclusionDigests:
    """The digests of one system.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._read = reader(engine)

    def of_version(self, version: int) -> Listed:
        """Return what a version is without; rows that a correction brings back are no part of it.

        An entry whose request the ledger does not know, which a restore may leave, counts as forgotten: the guard
        keeps it out as well.

        Args:
            version: Its number.
        """
        guard, request = t.guard.c, t.requests.c
        query = (
            sa
            .select(guard.kind, guard.key_id, guard.listed, request.request_id, request.state, request.version_after)
            .join(t.requests, request.request_id == guard.request_id, isouter=True)
            .where(~guard.returns)
        )
        digests: dict[tuple[str, KeyKind], list[bytes]] = {}
        unlisted = later = 0
        with self._read.begin() as connection:
            for row in connection.execute(query):
                out = row.request_id is None or row.state == RequestState.PURGED or row.version_after is not None
                if not out or (row.version_after or 0) > version:
                    later += 1
                elif row.listed is None:
                    unlisted += 1
                else:
                    digests.setdefault((row.key_id, row.kind), []).append(bytes(row.listed))
        return Listed(digests, unlisted, later)
