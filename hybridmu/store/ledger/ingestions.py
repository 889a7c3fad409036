"""Ingestions as the ledger knows them: new data that waits, is in the lake, is in every answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.errors import StateError
from hybridmu.store.dataset.layout import Generation, incoming_file
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader, transaction
from hybridmu.store.ledger.file_seals import confirm, drop_copies, record_copy
from hybridmu.store.ledger.idempotency import RepeatKey, remember, repeated
from hybridmu.store.ledger.lease import fence
from hybridmu.types import Ingestion, IngestState, RequestState


class Ingestions:
    """New data of one system.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def find_repeat(self, repeat: RepeatKey | None) -> str | None:
        """Return what an idempotency key already names.

        Raises:
            ConflictError: It came with another payload.
            StateError: A guard key is lost, and with it whether the key was used.
        """
        with self._read.begin() as connection:
            return repeated(connection, repeat)

    def accept(self, new: Ingestion, copy_seal: str | None, repeat: RepeatKey | None) -> str:
        """Commit an ingestion; durable when this returns.

        Args:
            new: What to do; its copy of the rows is in storage.
            copy_seal: What that holds; None where every row was left out, and there is none.
            repeat: The idempotency key: the same one returns the same ingestion.

        Returns:
            Its name, or that of the earlier one.

        Raises:
            ConflictError: The key came with another payload.
            StateError: A guard key is lost, and with it whether the key was used.
        """
        with transaction(self._write, "ingest") as connection:
            if earlier := repeated(connection, repeat):
                return earlier
            insert(connection, new, copy_seal)
            remember(connection, repeat, new.ingest_id)
        return new.ingest_id

    def get(self, ingest_id: str) -> Ingestion:
        """Return one ingestion.

        Raises:
            StateError: There is none of that name.
        """
        with self._read.begin() as connection:
            row = connection.execute(t.ingestions.select().where(t.ingestions.c.ingest_id == ingest_id)).first()
        if row is None:
            raise StateError("there is no such ingestion", remedy="list them with `hybridmu ingests list`")
        return _to_ingestion(row)

    def all(self, *states: IngestState) -> list[Ingestion]:
        """Return ingestions in commit order, all or those in the given states."""
        query = t.ingestions.select().order_by(t.ingestions.c.seq)
        if states:
            query = query.where(t.ingestions.c.state.in_(states))
        with self._read.begin() as connection:
            return [_to_ingestion(row) for row in connection.execute(query)]

    def of_request(self, request_id: str) -> Ingestion | None:
        """Return the ingestion that waits for a request: the other half of a correction."""
        query = t.ingestions.select().where(t.ingestions.c.after_request == request_id)
        with self._read.begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else _to_ingestion(row)

    def waiting(self) -> list[Ingestion]:
        """Return the ingestions whose rows are not in the lake yet, in commit order."""
        return [new for new in self.all(IngestState.RECEIVED) if new.generation is None]

    def stamp(self) -> int:
        """Return a number that is another one as soon as new data is accepted, or comes into the lake."""
        with self._read.begin() as connection:
            return stamp(connection)

    def unfinished(self) -> list[Ingestion]:
        """Return the RECEIVED ingestions that can go on now, in order; a correction waits until old rows are purged."""
        query = (
            t.ingestions
            .select()
            .join(t.requests, t.requests.c.request_id == t.ingestions.c.after_request, isouter=True)
            .where(t.ingestions.c.state == IngestState.RECEIVED)
            .where(t.ingestions.c.after_request.is_(None) | (t.requests.c.state == RequestState.PURGED))
            .order_by(t.ingestions.c.seq)
        )
        with self._read.begin() as connection:
            return [_to_ingestion(row) for row in connection.execute(query)]

    # ------------------------------------------------------------------ the coordinator's marks

    def mark_made(
        self,
        token: int,
        new: Ingestion,
        generation: int | None,
        rows: int,
        skipped: int,
        files: Collection[str],
        admit: Callable[[], None],
    ) -> None:
        """Note that the rows are in the lake, fenced; whom a correction brought back is not forgotten any more.

        Args:
            token: The coordinator's fencing token.
            new: The ingestion.
            generation: Number of the generation; None when every row was left out.
            rows: Rows that came in.
            skipped: Rows that were left out.
            files: Whose seals are confirmed with it.
            admit: Publishes the manifest; called inside of the transaction, so that no coordinator that lost its lease
                writes an old one over a new one.
        """
        with transaction(self._write, "grow") as connection:
            fence(connection, token)
            admit()
            confirm(connection, files)
            _set(connection, new.ingest_id, generation=generation, rows=rows, skipped=skipped, reason=None)
            _let_back(connection, new.after_request)

    def mark_applied(self, token: int, ingest_id: str, version: int) -> None:
        """Move an ingestion to APPLIED, fenced."""
        with transaction(self._write, "grown") as connection:
            fence(connection, token)
            _set(connection, ingest_id, state=IngestState.APPLIED, version=version, applied_at=time.time())

    def mark_served(self, token: int, upto_version: int) -> None:
        """Move ingestions of versions ≤ `upto_version` from APPLIED to SERVED, fenced."""
        where = (t.ingestions.c.state == IngestState.APPLIED) & (t.ingestions.c.version <= upto_version)
        with self._read.begin() as connection:  # most calls find nothing and need not write
            if connection.scalar(sa.select(t.ingestions.c.seq).where(where).limit(1)) is None:
                return
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.ingestions.update().where(where).values(state=IngestState.SERVED, served_at=time.time())
            )

    def mark_failed(self, token: int, ingest_id: str, reason: str) -> None:
        """Move an ingestion to FAILED, fenced; nothing of it is in the lake."""
        with self._write.begin() as connection:
            fence(connection, token)
            _set(connection, ingest_id, state=IngestState.FAILED, reason=reason)

    def adopt(self, token: int, generations: Sequence[Generation]) -> None:
        """Learn of generations that an older ledger, restored from a backup, does not know, fenced.

        Args:
            token: The coordinator's fencing token.
            generations: Those of the lake.
        """
        known = {new.ingest_id for new in self.all()}
        now = time.time()
        for number, made in enumerate(generations):
            if made.ingest_id is None or made.ingest_id in known:
                continue
            with self._write.begin() as connection:
                fence(connection, token)
                insert(
                    connection,
                    Ingestion(
                        ingest_id=made.ingest_id,
                        state=IngestState.RECEIVED,
                        source=incoming_file(made.ingest_id),
                        slices=made.slices,
                        epochs=made.epochs[0],
                        rows=made.count,
                        skipped=made.skipped,
                        received_at=now,
                        after_request=made.after_request,
                        generation=number,
                        reason="the ledger was restored from a backup that is older than these rows",
                    ),
                )
                _let_back(connection, made.after_request)

    def drop_seals(self, token: int) -> None:
        """Forget what copies held that wait no more, fenced."""
        waits = (t.ingestions.c.state == IngestState.RECEIVED) & t.ingestions.c.generation.is_(None)
        with self._write.begin() as connection:
            fence(connection, token)
            drop_copies(connection, sa.select(t.ingestions.c.source).where(waits))

    def fence(self, token: int) -> None:
        """Stop a coordinator that lost its lease before it writes to storage.

        Raises:
            LeaseLostError: Another token is current.
        """
        with self._read.begin() as connection:
            fence(connection, token)

    def note(self, token: int, ingest_id: str, reason: str) -> None:
        """Write down why an ingestion does not go on, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            _set(connection, ingest_id, reason=reason)

    def skip(self, token: int, ingest_id: str, rows: int) -> None:
        """Count rows of a waiting copy that were taken out of it, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            _set(connection, ingest_id, rows=t.ingestions.c.rows - rows, skipped=t.ingestions.c.skipped + rows)


def stamp(connection: Connection) -> int:
    """Return what `Ingestions.stamp` does, in the caller's transaction."""
    made = sa.func.count(t.ingestions.c.generation)  # of those that have one
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(t.ingestions.c.seq), 0) + made)) or 0)


def _let_back(connection: Connection, request_id: str | None) -> None:
    """Lift the guard's entries of a correction whose rows are back."""
    if request_id is not None:
        back = (t.guard.c.request_id == request_id) & t.guard.c.returns
        connection.execute(t.guard.delete().where(back))


def insert(connection: Connection, new: Ingestion, copy_seal: str | None = None) -> None:
    """Write a new ingestion, and what its copy of the rows holds, in the caller's transaction."""
    names = [column.name for column in t.ingestions.columns if column.name != "seq"]
    connection.execute(t.ingestions.insert().values({name: getattr(new, name) for name in names}))
    if copy_seal is not None:
        record_copy(connection, new.source, copy_seal)


def withdraw(connection: Connection, request_id: str) -> None:
    """End the ingestion of a cancelled correction in the caller's transaction."""
    connection.execute(
        t.ingestions
        .update()
        .where(t.ingestions.c.after_request == request_id)
        .values(state=IngestState.FAILED, reason="its correction was cancelled")
    )


def _set(connection: Connection, ingest_id: str, **values: Any) -> None:
    connection.execute(t.ingestions.update().where(t.ingestions.c.ingest_id == ingest_id).values(**values))


def _to_ingestion(row: Row[Any]) -> Ingestion:
    fields = {name: getattr(row, name) for name in Ingestion.__dataclass_fields__ if name != "state"}
    return Ingestion(state=IngestState(row.state), **fields)
