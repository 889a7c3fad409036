"""Immutable model versions and the serving pointer.

A version moves forward in what it has forgotten: per shard, its watermark (tombstones with seq ≤ it are out) never
falls. The pointer moves by compare-and-set, in the transaction that publishes the version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.database_errors import refuse_damaged
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.measurements import record_costs, record_outcomes
from hybridmu.store.ledger.request_rows import set_values
from hybridmu.store.ledger.webhook_outbox import changed, tell
from hybridmu.types import (
    ModelVersion,
    PastSubModel,
    RequestState,
    ShardOutcome,
    ShardPlan,
    SliceRecord,
    SubModelRecord,
)


class Registry:
    """Versions and which one is served.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def served(self) -> int | None:
        """Return the version that the pointer names; None before training."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.serving.c.version))

    def version(self, number: int | None = None) -> ModelVersion:
        """Return a version, by default the served one.

        Raises:
            StateError: There is none.
        """
        with self._read.begin() as connection:
            if number is None:
                number = connection.scalar(sa.select(t.serving.c.version))
            created = connection.scalar(sa.select(t.versions.c.created_at).where(t.versions.c.version == number))
            if number is None or created is None:
                raise StateError("there is no such model version", remedy="run `hybridmu train -c CONFIG` first")
            return ModelVersion(number, created, _content(connection, number))

    def history(self, since: Mapping[int, int]) -> dict[int, tuple[PastSubModel, ...]]:
        """Return what shards were, as far back as evidence needs it.

        Args:
            since: Shard → tombstone number.

        Returns:
            Shard → its sub-models, oldest first, from the last exact one that had not removed that tombstone on (from
            the first one, when there is none).
        """
        found: dict[int, tuple[PastSubModel, ...]] = dict.fromkeys(since, ())
        subs = t.version_shards.c
        with self._read.begin() as connection:
            for part in parts(sorted(since), 400):  # SQLite nests so many terms at most
                rows: dict[int, list[PastSubModel]] = {shard: [] for shard in part}
                older = subs.exact & sa.or_(*((subs.shard == s) & (subs.exact_upto < since[s]) for s in part))
                first = sa.select(subs.shard, sa.func.max(subs.version).label("version")).where(older)
                oldest = first.group_by(subs.shard).subquery()
                query = t.version_shards.select().join(oldest, oldest.c.shard == subs.shard, isouter=True)
                query = query.where(subs.shard.in_(part) & (subs.version >= sa.func.coalesce(oldest.c.version, 0)))
                for row in connection.execute(query.order_by(subs.version)):
                    rows[row.shard].append(PastSubModel(row.version, row.strategy, _to_sub_model(row)))
                found |= {shard: tuple(past) for shard, past in rows.items()}
        return found

    def publish_training(self, token: int, outcomes: Sequence[ShardOutcome]) -> int:
        """Return version 1, published from the training of every shard, fenced; later calls return what is there."""
        with transaction(self._write, "train") as connection:
            fence(connection, token)
            current = connection.scalar(sa.select(t.serving.c.version))
            if current is not None:
                return int(current)
            now = time.time()
            connection.execute(t.versions.insert().values(version=1, created_at=now))
            for outcome in outcomes:
                _insert(connection, 1, _sub_model(outcome, None, 0.0), outcome.strategy)
            connection.execute(t.serving.insert().values(id=1, version=1))
            record_costs(connection, outcomes)
            return 1

    def publish(
        self,
        token: int,
        round_id: str,
        request_ids: Sequence[str],
        pairs: Sequence[tuple[ShardPlan, ShardOutcome]],
    ) -> int:
        """Publish a new version with the changed shards, move the pointer, and mark the requests APPLIED.

        All of it is one fenced transaction.

        Args:
            token: The coordinator's fencing token.
            round_id: The round that made the outcomes.
            request_ids: Requests it fulfils.
            pairs: Plan and outcome per shard.

        Returns:
            The new version number.

        Raises:
            StateError: A shard would go back in what it has forgotten.
        """
        now = time.time()
        with transaction(self._write, "publish") as connection:
            fence(connection, token)
            current = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            before = {sub.shard: sub for sub in _content(connection, current)}
            number = current + 1
            connection.execute(t.versions.insert().values(version=number, created_at=now))
            for plan, outcome in pairs:
                old = before[outcome.shard]
                if outcome.upto < old.removed_upto:
                    raise StateError(
                        f"shard {outcome.shard} would bring back forgotten rows",
                        expected=f"a watermark of at least {old.removed_upto}",
                        got=str(outcome.upto),
                    )
                _insert(connection, number, _sub_model(outcome, old, plan.predicted_error), outcome.strategy)
            moved = connection.execute(t.serving.update().where(t.serving.c.version == current).values(version=number))
            if moved.rowcount != 1:
                raise StateError("the serving pointer moved under us", expected=str(current))
            done = {"state": RequestState.APPLIED, "applied_at": now, "version_after": number}
            set_values(connection, request_ids, **done)
            tell(connection, request_ids, "applied")
            _mark_exact(connection, number, now)
            have = set(connection.scalars(sa.select(t.rounds.c.request_id).where(t.rounds.c.round_id == round_id)))
            worked_for = {name for _, outcome in pairs for name in _helped(connection, outcome, before[outcome.shard])}
            if extra := [{"request_id": name, "round_id": round_id} for name in sorted(worked_for - have)]:
                connection.execute(t.rounds.insert(), extra)
            record_outcomes(connection, round_id, pairs)
            return number

    def satisfy(self, token: int, request_ids: Sequence[str]) -> None:
        """Mark requests APPLIED whose removals the served version contains already, fenced."""
        now = time.time()
        with transaction(self._write, "satisfy") as connection:
            fence(connection, token)
            current = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            open_ = t.requests.c.state.in_([RequestState.RECEIVED, RequestState.PLANNED])  # not cancelled since
            values = {"state": RequestState.APPLIED, "applied_at": now}
            values |= {"version_before": current, "version_after": current}
            ids = changed(connection, open_, request_ids)
            set_values(connection, ids, **values)
            tell(connection, ids, "applied")
            _mark_exact(connection, current, now)

    def debts(self) -> dict[int, float | None]:
        """Return shard → earliest deadline of the requests that wait for its exact repair, None without one.

        Only shards whose newest sub-model is approximate are in it.
        """
        with self._read.begin() as connection:
            current = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            owing = {s.shard: s.exact_upto for s in _content(connection, current) if s.exact_upto < s.removed_upto}
            found: dict[int, float | None] = dict.fromkeys(owing)
            if not owing:  # it is asked for at every step, and the log of requests only grows
                return found
            query = (
                sa
                .select(t.needs.c.shard, t.needs.c.upto, t.requests.c.deadline_at)
                .join(t.requests, t.requests.c.request_id == t.needs.c.request_id)
                .where(t.requests.c.exact_at.is_(None) & t.requests.c.deadline_at.is_not(None))
            )
            for shard, upto, deadline in connection.execute(query):
                if shard in owing and upto > owing[shard]:
                    found[shard] = min(deadline, found[shard] or deadline)
            return found


def _mark_exact(connection: Connection, number: int, now: float) -> None:
    """Mark the requests for which version `number` is the first that is exact.

    A failed request whose removal another one took along is APPLIED with it.
    """
    states = [RequestState.APPLIED, RequestState.SERVED, RequestState.FAILED]
    open_ = t.requests.c.exact_at.is_(None) & t.requests.c.state.in_(states)
    query = t.needs.select().where(t.needs.c.request_id.in_(sa.select(t.requests.c.request_id).where(open_)))
    exact = {sub.shard: sub.exact_upto for sub in _content(connection, number)}
    done: dict[str, bool] = {}
    for row in connection.execute(query):
        done[row.request_id] = done.get(row.request_id, True) and exact[row.shard] >= row.upto
    ids = [request_id for request_id, is_exact in done.items() if is_exact]
    taken_along = changed(connection, t.requests.c.state == RequestState.FAILED, ids)
    set_values(connection, taken_along, state=RequestState.APPLIED, applied_at=now, version_after=number)
    tell(connection, taken_along, "applied")
    set_values(connection, ids, exact_at=now, version_exact=number)
    tell(connection, ids, "exact")


def _helped(connection: Connection, outcome: ShardOutcome, old: SubModelRecord) -> list[str]:
    """Return the requests some of whose tombstones this outcome removed, or removed exactly, as the first one."""
    done = old.exact_upto if outcome.exact else old.removed_upto
    mine = (t.needs.c.shard == outcome.shard) & (t.needs.c.upto > done) & (t.needs.c.upto <= outcome.upto)
    return list(connection.scalars(sa.select(t.needs.c.request_id).where(mine)))


def _content(connection: Connection, number: int) -> tuple[SubModelRecord, ...]:
    newest = (
        sa
        .select(t.version_shards.c.shard, sa.func.max(t.version_shards.c.version).label("version"))
        .where(t.version_shards.c.version <= number)
        .group_by(t.version_shards.c.shard)
        .subquery()
    )
    query = (
        sa
        .select(t.version_shards)
        .join(
            newest,
            (t.version_shards.c.shard == newest.c.shard) & (t.version_shards.c.version == newest.c.version),
        )
        .order_by(t.version_shards.c.shard)
    )
    return tuple(_to_sub_model(row) for row in connection.execute(query))


def _to_sub_model(r: Row[Any]) -> SubModelRecord:
    try:
        checkpoints = _records(r.checkpoints)
    except (ValueError, TypeError) as error:
        refuse_damaged(f"the record of shard {r.shard} in version {r.version}: {error}")
    return SubModelRecord(
        r.shard, r.blob, r.exact, r.removed_upto, r.exact_upto, checkpoints, r.error_spent, r.head, r.generations
    )


def _sub_model(outcome: ShardOutcome, old: SubModelRecord | None, added_error: float) -> SubModelRecord:
    if outcome.exact or old is None:
        return SubModelRecord(
            outcome.shard,
            outcome.blob,
            True,
            outcome.upto,
            outcome.upto,
            outcome.slices,
            head=outcome.head,
            generations=outcome.generations,
        )
    return SubModelRecord(
        outcome.shard,
        outcome.blob,
        False,
        outcome.upto,
        old.exact_upto,
        old.checkpoints,
        old.error_spent + added_error,
        old.head,
        old.generations,
    )


def _records(raw: str) -> tuple[SliceRecord, ...]:
    return tuple(SliceRecord(number, key, blob) for number, key, blob in json.loads(raw))


def _insert(connection: Connection, version: int, sub: SubModelRecord, strategy: str) -> None:
    connection.execute(
        t.version_shards.insert().values(
            version=version,
            shard=sub.shard,
            blob=sub.blob,
            exact=sub.exact,
            removed_upto=sub.removed_upto,
            exact_upto=sub.exact_upto,
            checkpoints=json.dumps([[record.slice, record.lineage_key, record.blob] for record in sub.checkpoints]),
            error_spent=sub.error_spent,
            head=sub.head,
            generations=sub.generations,
            strategy=strategy,
        )
    )
