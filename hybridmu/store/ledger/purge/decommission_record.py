"""Record of a system's end in the ledger: it is announced, then the ledger is emptied, then nothing is left."""

from __future__ import annotations

import json
import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.ledger_identity import DECOMMISSIONED, decommissioned
from hybridmu.store.ledger.request_rows import set_values
from hybridmu.store.ledger.webhook_outbox import UNPURGED, tell
from hybridmu.types import ForwardState, IngestState, RequestState

_EMPTIED = (
    *(t.serving, t.versions, t.version_shards, t.tombstones, t.needs, t.rounds, t.outcomes, t.costs, t.idempotency),
    *(t.approvals, t.evidence, t.surveys, t.curves, t.replicas, t.links, t.forwards, t.outbox, t.claims, t.seals),
)


class DecommissionRecord:
    """What the ledger says of the end of its system; requests, guard entries and their log stay.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def announce(self, token: int, reason: str, caller: str) -> None:
        """Say, fenced, that the system is over: no request is accepted, no replica answers any more.

        Args:
            token: The coordinator's fencing token.
            reason: Why, for the log.
            caller: Who.

        Raises:
            StateError: A linked model has not got all requests yet.
        """
        with self._write.begin() as connection:
            fence(connection, token)
            _refuse_undelivered(connection)
            if decommissioned(connection) is None:
                value = json.dumps({"at": time.time(), "reason": reason, "caller": caller})
                connection.execute(t.meta.insert().values(key=DECOMMISSIONED, value=value))
            connection.execute(t.serving.delete())

    def empty(self, token: int, now: float) -> None:
        """Delete, fenced, everything but requests, the guard and their log; open requests and ingestions end.

        What receivers of webhooks have still to be told stays, too: it names nothing but requests.
        """
        with self._write.begin() as connection:
            fence(connection, token)
            for table in _EMPTIED:
                connection.execute(table.delete())
            connection.execute(t.meta.delete().where(t.meta.c.key.in_(["calibrating", "first calibration", "pause"])))
            done = {"state": RequestState.PURGED, "purged_at": now, "reason": "the whole system was decommissioned"}
            ids = list(connection.scalars(sa.select(t.requests.c.request_id).where(UNPURGED)))
            set_values(connection, ids, **done)
            tell(connection, ids, "purged")
            waiting = t.ingestions.c.state.in_([IngestState.RECEIVED, IngestState.APPLIED])
            over = {"state": IngestState.FAILED, "reason": done["reason"]}
            connection.execute(t.ingestions.update().where(waiting).values(**over))

    def finish(self, token: int, now: float) -> None:
        """Write down, fenced, that nothing is left."""
        with self._write.begin() as connection:
            fence(connection, token)
            raw = json.dumps({**(decommissioned(connection) or {}), "emptied_at": now})
            connection.execute(t.meta.update().where(t.meta.c.key == DECOMMISSIONED).values(value=raw))

    def finished(self) -> bool:
        """Return whether the system was decommissioned and nothing is left of it."""
        with self._read.begin() as connection:
            return bool((decommissioned(connection) or {}).get("emptied_at"))


def _refuse_undelivered(connection: Connection) -> None:
    """Refuse to end while a linked model has not been told of a request: nobody else would tell it."""  # noqa: DOC501
    waiting = sa.select(sa.func.count()).where(t.forwards.c.state == ForwardState.WAITING)
    if count := connection.scalar(waiting):
        raise StateError(
            "linked models have not got all requests of this one yet",
            expected="every request delivered",
            got=f"{count} not delivered",
            remedy="let its coordinator run (`hybridmu run`), or retire it from one of them: `hybridmu models retire`",
        )
