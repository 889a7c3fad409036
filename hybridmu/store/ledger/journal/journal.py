"""The storage's own memory of the ledger: what lets a restored, older database catch up.

Before a coordinator acts on requests, it writes them with their tombstones into `journal/`; after every publish, the
newest state of all shards. A ledger that knows less than its storage does was restored from a backup: it may not start
before `replay` has given it back what it lost. What was committed and not begun yet is in the database alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts, reader
from hybridmu.store.ledger.file_seals import Seals, changes
from hybridmu.store.ledger.idempotency import corrections, spent
from hybridmu.store.ledger.journal.journal_files import SEALS, STATE, Document, JournalFiles, named
from hybridmu.store.ledger.journal.journal_replay import (
    TABLES,
    keyed,
    last_number,
    missing_requests,
    plain,
    refuse_contradiction,
    refuse_lost,
    replay,
    typed,
)
from hybridmu.store.ledger.lease import COORDINATOR
from hybridmu.store.ledger.ledger_identity import decommissioned
from hybridmu.store.ledger.purge.purge_records import certificate_numbers
from hybridmu.store.storage.storage import Storage
from hybridmu.types import RequestState


class Journal:
    """Requests, tombstones and versions, mirrored in storage.

    Args:
        storage: Where it is kept.
        engine: The database that it mirrors.
    """

    def __init__(self, storage: Storage, engine: Engine) -> None:
        self.storage = storage
        self._write, self._read = engine, reader(engine)
        self._files = JournalFiles(storage, engine)
        self._kept: set[str] | None = None

    def keep(self, request_ids: Collection[str]) -> None:
        """Write down requests that are acted on and not cancelled, once each; durable when this returns."""
        if self._kept is None:
            self._kept = self._requests()
        fresh = sorted(set(request_ids) - self._kept)
        if not fresh:
            return
        entry: Document = {}
        with self._read.begin() as connection:
            stand = [name for part in parts(fresh) for name in _standing(connection, part)]
            if not stand:
                return
            for table in TABLES:
                entry[table.name] = [
                    _kept(row._mapping)
                    for part in parts(stand)
                    for row in connection.execute(table.select().where(table.c.request_id.in_(part)))
                ]
        self._files.add(entry)
        self._kept |= set(stand)

    def settle(self) -> None:
        """Write down which version is served, and what it is made of."""
        with self._read.begin() as connection:
            version = connection.scalar(sa.select(t.serving.c.version))
            token = connection.scalar(sa.select(sa.func.max(t.leases.c.token)).where(t.leases.c.name == COORDINATOR))
            last = (
                sa
                .select(t.version_shards.c.shard, sa.func.max(t.version_shards.c.version).label("version"))
                .group_by(t.version_shards.c.shard)
                .subquery()
            )
            same = (t.version_shards.c.shard == last.c.shard) & (t.version_shards.c.version == last.c.version)
            shards = connection.execute(sa.select(t.version_shards).join(last, same)).all()
        state = {"version": version, "token": token, "shards": [plain(row._mapping) for row in shards]}
        self._files.write(STATE, state)

    def keep_seals(self) -> None:
        """Write down what is recorded of the lake's files, and the number of the last certificate."""
        count, seals = Seals(self._write).content()
        with self._read.begin() as connection:
            number = last_number(connection, None)
        self._files.write(SEALS, {"changes": count, "seals": seals, "certificate": number})

    def reseal(self) -> None:
        """Write every file again; those of an older release have no seal."""
        for name, entry in self._files.entries():
            self._files.write(name, entry)
        if (state := self._files.state()) is not None:
            self._files.write(STATE, state)
        self.keep_seals()

    def renew(self) -> None:
        """Write again what an older release wrote, after `check`: without the system's name, or with unkeyed hashes.

        Unkeyed hashes of idempotency keys name what was asked, and can't be made again without the keys themselves:
        after a restore each of them is a new one.
        """
        for name, entry in self._files.entries():
            rows = keyed(entry["idempotency"])
            if not named(entry) or len(rows) < len(entry["idempotency"]):
                self._files.write(name, {**entry, "idempotency": rows})
        state, seals = self._files.state(), self._files.seals()
        if state is not None and not named(state):
            self._files.write(STATE, state)
        if seals is not None and not named(seals):
            self.keep_seals()

    def check(self, *, whole: bool = True) -> None:
        """Refuse a ledger that is older than its storage, or storage that lacks certificates of the ledger.

        Args:
            whole: Look for every request too; without it only what costs the same however many there were.

        Raises:
            StateError: The ledger lacks a version, a change of a table, a certificate, or a request that storage has
                acted on; storage lacks a certificate; or something in it is not of this system.
        """
        # Storage first: another process may be at work, and what it writes is in the ledger before.
        state, seals, certificates = self._files.state(), self._files.seals(), Certificates(self.storage)
        kept, there = self._requests() if whole else set(), set(certificates.numbers() if whole else ())
        with self._read.begin() as connection:
            if decommissioned(connection):
                return
            version = connection.scalar(sa.select(t.serving.c.version))
            written, given = certificate_numbers(connection)
            missing = missing_requests(connection, kept)
            behind = [f"{len(missing)} request(s) missing"] if missing else []
            if state and (version or 0) < (state["version"] or 0):
                behind.append(f"version {version} instead of {state['version']}")
            if seals and (lacking := seals["changes"] - changes(connection)) > 0:
                behind.append(f"{lacking} change(s) of tables missing")
            unknown = max(there, default=0) if whole else given + 1 if certificates.has(given + 1) else 0
            if unknown > given and self._given() > given:
                unknown = 0  # it was given out at this moment
            if max(unknown, last_number(connection, seals)) > given:
                behind.append(f"certificate {given + 1} is not known")  # numbers have no gaps
            if whole or not behind:
                refuse_lost(connection, self._files, seals, there, behind=bool(behind), whole=whole)
            if whole and unknown > given:
                certificates.chain(self._files.system, after=written)
            if whole and behind:
                refuse_contradiction(connection, self._files, missing)
        if behind and not whole:
            self.check()  # before a replay is advised, everything that it would take over is looked at
        elif behind:
            raise StateError(
                "the ledger is older than its storage: it was restored from a backup",
                expected="every version, purge, certificate and request that storage knows",
                got=", ".join(behind),
                remedy="run `hybridmu ledger replay -c CONFIG`; until then nothing is trained, removed or accepted",
            )

    def _given(self) -> int:
        with self._read.begin() as connection:
            return certificate_numbers(connection)[1]

    def shards(self) -> list[dict[str, Any]]:
        """Return the records of the newest sub-models, as rows of the database's table."""
        state = self._files.state()
        return [typed(row) for row in state["shards"]] if state else []

    def named(self) -> bool:
        """Return whether `shards` are certainly those of this system; true as well where there are none yet."""
        state = self._files.state()
        return state is None or named(state)

    def replay(self) -> dict[str, int]:
        """Give a restored ledger back what it lost, as a whole or not at all.

        Returns:
            How many requests and tombstones came back, and the version that is served.
        """
        found = replay(self._files, self._write)
        self.renew()
        return found

    def scrub(self, seqs: Collection[int], request_ids: Collection[str]) -> None:
        """Rewrite entries without what still names rows that are gone, and without reasons; HMACs and counts stay.

        Args:
            seqs: Tombstones whose rows are gone: their keys go.
            request_ids: Requests whose rows are gone: what came with their idempotency keys goes.
        """
        with self._read.begin() as connection:
            gone, over = set(seqs), set(request_ids) - corrections(connection, request_ids)
        for name, entry in self._files.entries():
            said = [row for row in entry["requests"] if row.get("reason") is not None]  # of an older release
            stones = [row for row in entry["tombstones"] if row["seq"] in gone and row["key"] is not None]
            keys = [row for row in keyed(entry["idempotency"]) if row["request_id"] in over]
            left = [plain({"payload": spent(typed(row)["payload"])}) for row in keys]
            changed = [
                (row, fields) for row, fields in zip(keys, left, strict=True) if row["payload"] != fields["payload"]
            ]
            emptied = [*((row, {"reason": None}) for row in said), *((row, {"key": None}) for row in stones)]
            for row, fields in [*emptied, *changed]:
                row.update(fields)
            if said or stones or changed:
                self._files.write(name, entry)

    def _requests(self) -> set[str]:
        """Return the requests that storage knows."""
        return {row["request_id"] for _, entry in self._files.entries() for row in entry["requests"]}


def _kept(row: Any) -> dict[str, Any]:
    """Return a row for the journal, without a reason: nobody reads it there, and it may name somebody."""
    return {name: None if name == "reason" else value for name, value in plain(row).items()}


def _standing(connection: Connection, names: list[str]) -> list[str]:
    """Return the requests among these that are not cancelled."""
    there = t.requests.c.request_id.in_(names) & (t.requests.c.state != RequestState.CANCELLED)
    return list(connection.scalars(sa.select(t.requests.c.request_id).where(there)))
