"""The storage's own memory of the ledger: what lets a restored, older database catch up.

Before a coordinator acts on requests, it writes them with their tombstones into `journal/`; after every publish, the
newest state of all shards. A ledger that knows less than its storage does was restored from a backup: it may not start
before `replay` has given it back what it lost. What was committed and not begun yet is in the database alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.filing import begin_earlier
from hybridmu.store.ledger.accept.idempotency import corrections
from hybridmu.store.ledger.database import parts, reader
from hybridmu.store.ledger.file_seals import Seals, changes, restore
from hybridmu.store.ledger.ledger_identity import decommissioned
from hybridmu.store.ledger.purge_records import certificate_numbers, keep_certificate_number
from hybridmu.store.storage.sealed_json import sealed, unsealed
from hybridmu.store.storage.storage import Storage
from hybridmu.types import RequestState

_FOLDER = "journal"
STATE, SEALS = f"{_FOLDER}/state.json", f"{_FOLDER}/seals.json"
ENTRY_TABLES = (t.requests, t.tombstones, t.needs, t.guard, t.idempotency, t.reliances, t.named)
# Members of files that an older release wrote, without a seal.
MEMBERS = {STATE: ("version", "token", "shards"), SEALS: ()}
ENTRY_MEMBERS = ("requests", "tombstones", "needs", "guard", "idempotency")
_DAMAGED = (
    "the journal matters only to a ledger that was restored; delete this file if the ledger is the newest one there "
    "is: it is written anew. Otherwise put back its newest copy"
)
_TIMES = ("planned_at", "applied_at", "served_at", "exact_at", "purged_at")


class Journal:
    """Requests, tombstones and versions, mirrored in storage.

    Args:
        storage: Where it is kept.
        engine: The database that it mirrors.
    """

    def __init__(self, storage: Storage, engine: Engine) -> None:
        self.storage = storage
        self._write, self._read = engine, reader(engine)
        self._kept: set[str] | None = None

    def keep(self, request_ids: Collection[str]) -> None:
        """Write down requests that are acted on and not cancelled, once each; durable when this returns."""
        if self._kept is None:
            self._kept = self._requests()
        fresh = sorted(set(request_ids) - self._kept)
        if not fresh:
            return
        entry: dict[str, Any] = {}
        with self._read.begin() as connection:
            stand = [name for part in parts(fresh) for name in _standing(connection, part)]
            if not stand:
                return
            for table in ENTRY_TABLES:
                entry[table.name] = [
                    _kept(row._mapping)
                    for part in parts(stand)
                    for row in connection.execute(table.select().where(table.c.request_id.in_(part)))
                ]
        self.storage.write(f"{_FOLDER}/{uuid.uuid4().hex}.json", sealed(entry))
        self._kept |= set(stand)

    def settle(self) -> None:
        """Write down which version is served, and what it is made of."""
        with self._read.begin() as connection:
            version = connection.scalar(sa.select(t.serving.c.version))
            token = connection.scalar(sa.select(sa.func.max(t.leases.c.token)))
            last = (
                sa
                .select(t.version_shards.c.shard, sa.func.max(t.version_shards.c.version).label("version"))
                .group_by(t.version_shards.c.shard)
                .subquery()
            )
            same = (t.version_shards.c.shard == last.c.shard) & (t.version_shards.c.version == last.c.version)
            shards = connection.execute(sa.select(t.version_shards).join(last, same)).all()
        state = {"version": version, "token": token, "shards": [_plain(row._mapping) for row in shards]}
        self.storage.write(STATE, sealed(state))

    def keep_seals(self) -> None:
        """Write down what is recorded of the lake's files."""
        count, seals = Seals(self._write).content()
        self.storage.write(SEALS, sealed({"changes": count, "seals": seals}))

    def reseal(self) -> None:
        """Write every file anew; those of an older release have no seal."""
        for name, entry in self._entries():
            self.storage.write(name, sealed(entry))
        if (state := self._state()) is not None:
            self.storage.write(STATE, sealed(state))
        self.keep_seals()

    def check(self, *, whole: bool = True) -> None:
        """Refuse a ledger that is older than its storage, or storage that lacks certificates of the ledger.

        Args:
            whole: Look for every request too; without it only what costs the same however many there were.

        Raises:
            StateError: The ledger lacks a version, a change of a table, a certificate, or a request that storage has
                acted on; or storage lacks a certificate.
        """
        # Storage first: another process may be at work, and what it writes is in the ledger before.
        state, seals, certificates = self._state(), self._sealed(), Certificates(self.storage)
        kept, there = self._requests() if whole else set(), set(certificates.numbers() if whole else ())
        with self._read.begin() as connection:
            if decommissioned(connection):
                return
            version = connection.scalar(sa.select(t.serving.c.version))
            written, given = certificate_numbers(connection)
            counted, missing = changes(connection), self._missing(connection, kept)
        behind = [f"{len(missing)} request(s) missing"] if missing else []
        if state and (version or 0) < (state["version"] or 0):
            behind.append(f"version {version} instead of {state['version']}")
        if seals and counted < seals["changes"]:
            behind.append(f"{seals['changes'] - counted} change(s) of tables missing")
        if (given + 1 in there if whole else certificates.has(given + 1)) and self._given() == given:
            behind.append(f"certificate {given + 1} is not known")  # numbers have no gaps
        if behind:
            raise StateError(
                "the ledger is older than its storage: it was restored from a backup",
                expected="every version, purge, certificate and request that storage knows",
                got=", ".join(behind),
                remedy="run `hybridmu ledger replay -c CONFIG`; until then nothing is trained, removed or accepted",
            )
        wanted = set(range(1, written + 1)) if whole else {written} - {0}
        if lost := [number for number in sorted(wanted - there) if not certificates.has(number)]:
            raise StateError(
                "storage is older than the ledger: certificates are missing, whose numbers must not be given out again",
                expected=f"number {written} and all before it in {self.storage.url}/certificates",
                got=f"number {lost[0]} is not there",
                remedy="put them back: from a newer backup of storage, or from whoever received them",
            )

    def _given(self) -> int:
        with self._read.begin() as connection:
            return certificate_numbers(connection)[1]

    def shards(self) -> list[dict[str, Any]]:
        """Return the records of the newest sub-models, as rows of the database's table."""
        state = self._state()
        return [_typed(row) for row in state["shards"]] if state else []

    def replay(self) -> dict[str, int]:
        """Give a restored ledger back what it lost; requests whose removal it can't see are fulfilled again.

        Returns:
            How many requests and tombstones came back, and the version that is served.
        """
        state, seals = self._state(), self._sealed()
        self.drop_unkeyed()
        with self._write.begin() as connection:
            missing = self._missing(connection, self._requests())
            tombstones = 0
            for _, entry in self._entries():
                for table in ENTRY_TABLES:
                    rows = [_typed(row) for row in entry.get(table.name, ()) if row["request_id"] in missing]
                    if table is t.requests:
                        rows = [_reopened(row) for row in rows]
                    if rows:
                        connection.execute(table.insert(), rows)
                    tombstones += len(rows) if table is t.tombstones else 0
            begin_earlier(connection)
            if tombstones and connection.dialect.name == "postgresql":  # numbers were given, not drawn
                for numbered in ("tombstones", "requests"):
                    connection.exec_driver_sql(
                        f"SELECT setval(pg_get_serial_sequence('{numbered}', 'seq'), (SELECT MAX(seq) FROM {numbered}))"
                    )
            certificates = Certificates(self.storage).all()
            for document in certificates:
                _close(connection, document)
            if certificates:
                keep_certificate_number(connection, certificates[-1]["number"])
            if seals and changes(connection) < seals["changes"]:
                restore(connection, seals["changes"], seals["seals"])
            current = connection.scalar(sa.select(t.serving.c.version)) or 0
            if state and state["version"] and state["version"] > current:
                _restore_version(connection, state)
                current = state["version"]
        return {"requests": len(missing), "tombstones": tombstones, "version": int(current)}

    def scrub(self, seqs: Collection[int], request_ids: Collection[str]) -> None:
        """Rewrite entries without what still names rows that are gone, and without reasons; HMACs and counts stay.

        Args:
            seqs: Tombstones whose rows are gone: their keys go.
            request_ids: Requests whose rows are gone: what came with their idempotency keys goes.
        """
        with self._read.begin() as connection:
            gone, over = set(seqs), set(request_ids) - corrections(connection, request_ids)
        for name, entry in self._entries():
            said = [row for row in entry["requests"] if row.get("reason") is not None]  # of an older release
            stones = [row for row in entry["tombstones"] if row["seq"] in gone and row["key"] is not None]
            keys = [row for row in entry["idempotency"] if row["request_id"] in over and row["payload"] is not None]
            for row in said:
                row["reason"] = None
            for row in stones:
                row["key"] = None
            for row in keys:
                row["payload"] = None
            if said or stones or keys:
                self.storage.write(name, sealed(entry))

    def drop_unkeyed(self) -> None:
        """Rewrite entries of older releases without their idempotency keys: unkeyed hashes name what was asked.

        They can't be made anew without the keys themselves; after a restore each of them is a new one.
        """
        for name, entry in self._entries():
            keyed = [row for row in entry["idempotency"] if "key_id" in row]
            if len(keyed) < len(entry["idempotency"]):
                self.storage.write(name, sealed({**entry, "idempotency": keyed}))

    def _requests(self) -> set[str]:
        """Return the requests that storage knows."""
        return {row["request_id"] for _, entry in self._entries() for row in entry["requests"]}

    @staticmethod
    def _missing(connection: Connection, kept: Collection[str]) -> set[str]:
        """Return those of some requests that the ledger does not know."""
        have: set[str] = set()
        for part in parts(sorted(kept)):
            have |= set(connection.scalars(sa.select(t.requests.c.request_id).where(t.requests.c.request_id.in_(part))))
        return set(kept) - have

    def _entries(self) -> list[tuple[str, dict[str, Any]]]:
        names = [info.name for info in self.storage.list(_FOLDER) if info.name.endswith(".json")]
        return [(name, self._read_json(name)) for name in names if name not in MEMBERS]

    def _state(self) -> dict[str, Any] | None:
        try:
            return self._read_json(STATE)
        except FileNotFoundError:
            return None

    def _sealed(self) -> dict[str, Any] | None:
        try:
            return self._read_json(SEALS)
        except FileNotFoundError:
            return None

    def _read_json(self, name: str) -> dict[str, Any]:
        members = MEMBERS.get(name, ENTRY_MEMBERS)
        return unsealed(self.storage.read(name), f"{name} in {self.storage.url}", members, _DAMAGED)


def guard_keys_in(storage: Storage) -> set[str]:
    """Return the ids of the guard keys that a storage's journal names, as far as it can be read."""
    found: set[str] = set()
    for info in storage.list(_FOLDER):
        if info.name in _MEMBERS or not info.name.endswith(".json"):
            continue
        try:
            entry = unsealed(storage.read(info.name), info.name, _ENTRY, _DAMAGED)
        except CorruptBlobError:  # told of where it matters
            continue
        # An older release made HMACs without naming their key.
        found |= {str(row["key_id"]) for table in ("guard", "idempotency") for row in entry[table] if "key_id" in row}
    return found


def _standing(connection: Connection, names: list[str]) -> list[str]:
    """Return the requests among these that are not cancelled."""
    there = t.requests.c.request_id.in_(names) & (t.requests.c.state != RequestState.CANCELLED)
    return list(connection.scalars(sa.select(t.requests.c.request_id).where(there)))


def _restore_version(connection: Connection, state: dict[str, Any]) -> None:
    """Write the newest version under its own number, so that no number is given out twice."""
    number = state["version"]
    created = sa.select(t.versions.c.version).where(t.versions.c.version == number)
    if connection.scalar(created) is None:
        connection.execute(t.versions.insert().values(version=number, created_at=0.0))
    for row in state["shards"]:
        key = (t.version_shards.c.version == row["version"]) & (t.version_shards.c.shard == row["shard"])
        if connection.scalar(sa.select(t.version_shards.c.shard).where(key)) is None:
            connection.execute(t.version_shards.insert().values(**row))
    if connection.execute(t.serving.update().values(version=number)).rowcount == 0:
        connection.execute(t.serving.insert().values(id=1, version=number))


def _close(connection: Connection, certificate: dict[str, Any]) -> None:
    """Mark a request PURGED that has a certificate: its rows are gone, whatever an older ledger says."""
    request = certificate["request"]
    mine = t.requests.c.request_id == request["id"]
    known = [name for name in _TIMES if request[name] is not None]
    times = {name: datetime.fromisoformat(request[name]).timestamp() for name in known}
    values = {"state": RequestState.PURGED, "certificate": certificate["number"], **times}
    connection.execute(t.requests.update().where(mine).values(**values))
    connection.execute(t.tombstones.update().where(t.tombstones.c.request_id == request["id"]).values(key=None))
    connection.execute(t.evidence.delete().where(t.evidence.c.request_id == request["id"]))


def _reopened(row: dict[str, Any]) -> dict[str, Any]:
    """Return a request as it was accepted: what happened since is found again, or done again."""
    kept = {"seq", "request_id", "strategy", "caller", "keys", "already_forgotten", "ignored_unknown"}
    kept |= {"received_at", "deadline_at", "origin"}
    fields = {name: value for name, value in row.items() if name in kept}
    return {**fields, "state": RequestState.PLANNED}


def _kept(row: Any) -> dict[str, Any]:
    """Return a row for the journal, without a reason: nobody reads it there, and it may name somebody."""
    return {name: None if name == "reason" else value for name, value in _plain(row).items()}


def _plain(row: Any) -> dict[str, Any]:
    return {name: {"hex": value.hex()} if isinstance(value, bytes) else value for name, value in row.items()}


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for name, value in row.items()}
