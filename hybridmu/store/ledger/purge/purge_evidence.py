"""Evidence and surveys of a purge: what is found of rows before they go, since afterwards nothing could tell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.obfuscation import mask, unmask
from hybridmu.store.ledger.watermarks import newest
from hybridmu.types import Proof, RequestNeed, RequestState
from hybridmu.types.keys import RevokedKey
from hybridmu.types.surveys import Survey


class PurgeEvidence:
    """What certificates will show of requests, and what their purges remove.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def unproven(self, shards: Collection[int], again: bool = False) -> dict[int, tuple[RequestNeed, ...]]:
        """Return shard → requests whose removal there is exact, and which have no evidence of it yet.

        Those that are exact on this shard only are among them: once others' rows are purged, nothing could show any
        more what their sub-model was made of.

        Args:
            shards: Which.
            again: Those too whose evidence did not show the deletion.
        """
        have = sa.select(t.evidence.c.request_id).where(
            (t.evidence.c.request_id == t.needs.c.request_id)
            & (t.evidence.c.shard == t.needs.c.shard)
            & (t.evidence.c.refused.is_(None) | sa.literal(not again))
        )
        last = newest()
        # What another request revoked is shown by its certificate.
        own = (t.tombstones.c.request_id == t.needs.c.request_id) & (t.tombstones.c.shard == t.needs.c.shard)
        done = (RequestState.PURGED, RequestState.CANCELLED)
        query = (
            t.needs
            .select()
            .join(t.requests, t.requests.c.request_id == t.needs.c.request_id)
            .join(last, last.c.shard == t.needs.c.shard)
            .where(t.requests.c.state.not_in(done) & (t.needs.c.upto <= last.c.exact_upto) & ~have.exists())
            .where(sa.exists().where(own) | lost_needs())
            .order_by(t.requests.c.seq)
        )
        found: dict[int, list[RequestNeed]] = {shard: [] for shard in shards}
        with self._read.begin() as connection:
            for part in parts(sorted(shards)):
                for row in connection.execute(query.where(t.needs.c.shard.in_(part))):
                    found[row.shard].append(RequestNeed(row.request_id, row.upto))
        return {shard: tuple(needs) for shard, needs in found.items()}

    def save(self, token: int, shard: int, proofs: Iterable[Proof], surveys: Iterable[tuple[str, Survey]]) -> None:
        """Keep what was found of a shard before anything is removed from it, fenced.

        Earlier findings stay, but for evidence that did not show the deletion, where there is some now that does.

        Args:
            token: The coordinator's fencing token.
            shard: Shard number.
            proofs: Evidence of requests.
            surveys: (request, what its purge removes).
        """
        with transaction(self._write, "proof") as connection:
            fence(connection, token)
            there = t.evidence.c.shard == shard
            have = dict(connection.execute(sa.select(t.evidence.c.request_id, t.evidence.c.refused).where(there)).all())
            for proof in proofs:
                better = proof.refused is None and have.get(proof.request_id) is not None
                if proof.document and (better or proof.request_id not in have):
                    values = {"document": proof.document, "refused": proof.refused}
                    connection.execute(t.evidence.delete().where(there & (t.evidence.c.request_id == proof.request_id)))
                    connection.execute(t.evidence.insert().values(request_id=proof.request_id, shard=shard, **values))
            for request_id, survey in surveys:
                mine = (t.surveys.c.request_id == request_id) & (t.surveys.c.shard == shard)
                known = connection.scalar(sa.select(t.surveys.c.document).where(mine))
                merged = survey if known is None else survey.merged(_unmasked(known))
                connection.execute(t.surveys.delete().where(mine))
                connection.execute(
                    t.surveys.insert().values(request_id=request_id, shard=shard, document=_masked(merged))
                )

    def documents(self, request_id: str) -> list[str]:
        """Return the evidence of a request, one JSON document per shard, in shard order."""
        query = sa.select(t.evidence.c.document).where(t.evidence.c.request_id == request_id)
        with self._read.begin() as connection:
            return list(connection.scalars(query.order_by(t.evidence.c.shard)))

    def refused(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Return the requests among these some of whose evidence does not show the deletion, and why."""
        found: dict[str, str] = {}
        with self._read.begin() as connection:
            for part in parts(request_ids):
                query = t.evidence.select().where(t.evidence.c.request_id.in_(part) & t.evidence.c.refused.is_not(None))
                found |= {row.request_id: row.refused for row in connection.execute(query)}
        return found

    def surveys(self, request_ids: Sequence[str]) -> dict[tuple[str, int], Survey]:
        """Return (request, shard) → what its purge removes."""
        found = {}
        with self._read.begin() as connection:
            for part in parts(request_ids):
                for row in connection.execute(t.surveys.select().where(t.surveys.c.request_id.in_(part))):
                    found[row.request_id, row.shard] = _unmasked(row.document)
        return found

    def surveyed(self, request_ids: Sequence[str]) -> set[tuple[str, int]]:
        """Return the (request, shard) pairs that have a survey."""
        found = set()
        with self._read.begin() as connection:
            for part in parts(request_ids):
                query = sa.select(t.surveys.c.request_id, t.surveys.c.shard).where(t.surveys.c.request_id.in_(part))
                found |= {(row.request_id, row.shard) for row in connection.execute(query)}
        return found

    def revoked_keys(self, request_id: str) -> tuple[RevokedKey, ...]:
        """Return the HMACs of the ids and groups that a request revoked, in order."""
        mine = (t.guard.c.request_id == request_id) & ~t.guard.c.absent
        query = t.guard.select().where(mine).order_by(t.guard.c.mac)
        with self._read.begin() as connection:
            return tuple(RevokedKey(row.kind, bytes(row.mac), row.key_id) for row in connection.execute(query))


def lost_needs() -> sa.ColumnElement[bool]:
    """Return whether what a request waits for on a shard is gone from the ledger: whose it was must be shown, then."""
    there = (t.tombstones.c.shard == t.needs.c.shard) & (t.tombstones.c.seq == t.needs.c.upto)
    return ~sa.exists().where(there)


def _masked(survey: Survey) -> bytes:
    """Return a survey in a form in which a search for the bytes that it names does not find it."""
    return mask(survey.to_json().encode())


def _unmasked(data: bytes) -> Survey:
    return Survey.from_json(unmask(data).decode())
