"""Forgetting everything: the ledger says so first, then storage and database are emptied, then the code looks."""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import PurgeError, StateError
from hybridmu.runtime.purge.database_scrub import clean
from hybridmu.store.key_files import is_key_file
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import reader
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.ledger_identity import DECOMMISSIONED, decommissioned
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ownership import MARKER
from hybridmu.store.storage.storage import Storage
from hybridmu.types import ForwardState, IngestState, RequestState

_KEPT_FOLDER = "certificates/"
_EMPTIED = (
    *(t.serving, t.versions, t.version_shards, t.tombstones, t.needs, t.rounds, t.outcomes, t.costs, t.idempotency),
    *(t.evidence, t.surveys, t.curves, t.replicas, t.links, t.forwards, t.outbox, t.claims, t.seals),
)


class Decommission:
    """The end of a system; every step may be repeated after a crash.

    Args:
        storage: What is emptied; certificates stay.
        engine: The database; requests, guard entries and their log stay.
    """

    def __init__(self, storage: Storage, engine: Engine) -> None:
        self.storage = storage
        self._engine, self._read = engine, reader(engine)

    def announce(self, token: int, reason: str, caller: str) -> None:
        """Say in the ledger, fenced, that the system is over: no request is accepted, no replica answers any more.

        Raises:
            StateError: A legal hold is in force, keys lie in storage, or a linked model has not got all requests yet.
        """
        self.refuse_held()
        self._refuse_keys()
        with self._engine.begin() as connection:
            fence(connection, token)
            _refuse_undelivered(connection)
            if decommissioned(connection) is None:
                value = json.dumps({"at": time.time(), "reason": reason, "caller": caller})
                connection.execute(t.meta.insert().values(key=DECOMMISSIONED, value=value))
            connection.execute(t.serving.delete())

    def refuse_held(self) -> None:
        """Refuse to end while a legal hold is in force.

        Raises:
            StateError: One is.
        """
        if holds := Controls(self._engine).holds():
            raise StateError(
                "a legal hold keeps this system from being decommissioned",
                got=f"hold {holds[0].number}: {holds[0].reason}",
                remedy="lift it first: `hybridmu lift`",
            )

    def _refuse_keys(self) -> None:
        """Refuse to delete keys that somebody put into storage: another system may use them, and proofs need them."""  # noqa: DOC501
        if keys := [info.name for info in self.storage.list() if is_key_file(info.name.rpartition("/")[2])]:
            raise StateError(
                "keys lie in storage, and would be deleted with it",
                expected="key files outside of storage_url",
                got=f"{len(keys)} file(s): {', '.join(keys[:3])}",
                remedy="move them out, and name their new folder in keys.folder of every system that uses them",
            )

    def empty(self, token: int) -> dict[str, Any]:
        """Delete everything but certificates, requests and the guard, and look.

        Args:
            token: The coordinator's fencing token.

        Returns:
            How many files went and what stays.

        Raises:
            PurgeError: Something is still there.
        """
        going = [info.name for info in self.storage.list() if not self._stays(info.name)]
        links = self.storage.links()  # somebody else's, like what they lead to: they stay, and are told of
        linked = {name.partition("/")[0] for name in links}
        for folder in sorted({name.partition("/")[0] for name in going if "/" in name} - linked):
            self.storage.delete_folder(folder)
        self.storage.delete(*[name for name in going if "/" not in name or name.partition("/")[0] in linked])
        now = time.time()
        with self._engine.begin() as connection:
            fence(connection, token)
            for table in _EMPTIED:
                connection.execute(table.delete())
            connection.execute(t.meta.delete().where(t.meta.c.key.in_(["calibrating", "pause"])))
            done = {"state": RequestState.PURGED, "purged_at": now, "reason": "the whole system was decommissioned"}
            ended = [RequestState.PURGED, RequestState.CANCELLED]
            connection.execute(t.requests.update().where(t.requests.c.state.not_in(ended)).values(**done))
            waiting = t.ingestions.c.state.in_([IngestState.RECEIVED, IngestState.APPLIED])
            over = {"state": IngestState.FAILED, "reason": done["reason"]}
            connection.execute(t.ingestions.update().where(waiting).values(**over))
        clean(self._engine, (), _nothing)
        if left := [info.name for info in self.storage.list() if not self._stays(info.name)]:
            raise PurgeError(f"{len(left)} file(s) are still in storage", got=", ".join(left[:5]), remedy="try again")
        with self._engine.begin() as connection:
            fence(connection, token)
            raw = json.dumps({**(decommissioned(connection) or {}), "emptied_at": now})
            connection.execute(t.meta.update().where(t.meta.c.key == DECOMMISSIONED).values(value=raw))
        kept = sum(info.name.startswith(_KEPT_FOLDER) for info in self.storage.list())
        left_alone = [name.encode(errors="backslashreplace").decode() for name in links]  # any bytes may be in a name
        return {"files_deleted": len(going), "certificates_kept": kept, "links_left": left_alone, "at": now}

    def finished(self) -> bool:
        """Return whether the system was decommissioned and nothing is left of it."""
        with self._read.begin() as connection:
            return bool((decommissioned(connection) or {}).get("emptied_at"))

    def _stays(self, name: str) -> bool:
        database = self._engine.url.database or ""
        ours = {f"{database}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}
        return name == MARKER or name.startswith(_KEPT_FOLDER) or self.storage.path(name) in ours


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


def _nothing() -> None:
    """Keep no lease: this one was taken for long."""
