"""Replay: gives a restored ledger back what storage has acted on since, as a whole or not at all.

Whatever could not be of this system, or of another course of its life, is refused before anything is written; so is a
storage that lacks certificates, whose numbers and requests nothing else remembers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from hybridmu.errors import StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts
from hybridmu.store.ledger.file_seals import changes, restore
from hybridmu.store.ledger.journal.journal_files import SEALS, STATE, Document, JournalFiles, named
from hybridmu.store.ledger.purge.purge_records import certificate_numbers, keep_certificate_number
from hybridmu.store.ledger.request_rows import begin_earlier
from hybridmu.store.ledger.webhook_outbox import changed, tell
from hybridmu.store.storage.blob_names import blob_file
from hybridmu.store.storage.sealed_json import file_seal
from hybridmu.types import RequestState

TABLES = (t.requests, t.tombstones, t.needs, t.guard, t.idempotency, t.reliances, t.named, t.approvals)
_TIMES = ("planned_at", "applied_at", "served_at", "exact_at", "purged_at")
_APART = (
    "this file is of another system, or the ledger went on before it had caught up: move a foreign file out of this "
    "storage, or restore the ledger once more and replay before anything else is asked"
)


def replay(files: JournalFiles, engine: Engine) -> dict[str, int]:
    """Give a restored ledger back what it lost; requests whose removal it can't see are fulfilled again.

    Args:
        files: The journal.
        engine: The ledger.

    Returns:
        How many requests and tombstones came back, and the version that is served.

    Raises:
        StateError: Storage lacks certificates, or holds what is not of this system; nothing was changed.
    """
    state, seals, entries = files.state(), files.seals(), files.entries()
    certificates = Certificates(files.storage).chain(files.system)
    kept = {row["request_id"] for _, entry in entries for row in entry["requests"]}
    try:
        with engine.begin() as connection:
            there = {document["number"] for document in certificates}
            refuse_lost(connection, files, seals, there, behind=False)
            _refuse_given_twice(connection, certificates)
            missing = missing_requests(connection, kept)
            refuse_contradiction(connection, files, missing)
            tombstones = _restore_requests(connection, entries, missing)
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
    except SQLAlchemyError as error:  # a constraint of the tables: two things that can't both be true
        raise StateError(
            "the journal and the ledger contradict each other; nothing was changed",
            got=" ".join(str(error.__cause__ or error).split())[:200],
            remedy=_APART,
        ) from error
    return {"requests": len(missing), "tombstones": tombstones, "version": int(current)}


def missing_requests(connection: Connection, kept: Collection[str]) -> set[str]:
    """Return those of some requests that the ledger does not know, or of which it does not know the approval."""
    have: set[str] = set()
    for part in parts(sorted(kept)):
        known = t.requests.c.request_id.in_(part) & (t.requests.c.state != RequestState.PROPOSED)
        have |= set(connection.scalars(sa.select(t.requests.c.request_id).where(known)))
    return set(kept) - have


def last_number(connection: Connection, seals: Document | None) -> int:
    """Return the last number of which ledger or journal know that a certificate was written; 0 before the first."""
    return max(certificate_numbers(connection)[0], int((seals or {}).get("certificate", 0)))


def refuse_lost(
    connection: Connection,
    files: JournalFiles,
    seals: Document | None,
    there: Collection[int],
    *,
    behind: bool,
    whole: bool = True,
) -> None:
    """Refuse a storage that lacks certificates: their numbers would be given out again.

    Args:
        connection: In any transaction.
        files: The journal.
        seals: From the journal: it keeps the last number, too.
        there: Numbers that are known to be there.
        behind: Whether the ledger has to catch up afterwards.
        whole: Look for every number; without it for the last.

    Raises:
        StateError: One is missing.
    """
    last, certificates = last_number(connection, seals), Certificates(files.storage)
    wanted = set(range(1, last + 1)) if whole else {last} - {0}
    if lost := [number for number in sorted(wanted - set(there)) if not certificates.has(number)]:
        raise StateError(
            "certificates are missing in storage, whose numbers must not be given out again",
            expected=f"number {last} and all before it in {files.storage.url}/certificates",
            got=f"number {lost[0]} is not there",
            remedy="put them back: from a newer backup of storage, or from a recipient"
            + ("; then run `hybridmu ledger replay -c CONFIG`" if behind else ""),
        )


def refuse_contradiction(connection: Connection, files: JournalFiles, missing: Collection[str]) -> None:
    """Refuse a journal that can't be of this ledger's life, before it is advised to take it over.

    Args:
        connection: In any transaction.
        files: The journal; documents of earlier releases don't say whose they are, but what they name can be looked at.
        missing: Its requests that the ledger does not know.

    Raises:
        StateError: It is not.
    """
    for name, got in _contradictions(connection, files, missing):
        raise StateError(
            f"{name} in {files.storage.url} contradicts the ledger; nothing was changed",
            expected="what an older state of this ledger could have lost",
            got=got,
            remedy=_APART,
        )


def _contradictions(connection: Connection, files: JournalFiles, missing: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (file, what can't be)."""
    state, seals = files.state(), files.seals()
    current = connection.scalar(sa.select(t.serving.c.version)) or 0
    if state and not named(state) and (state["version"] or 0) > current:
        refs = [row["blob"] for row in state["shards"] if row["blob"]]
        if refs and not any(files.storage.exists(blob_file(ref)) for ref in refs):
            yield STATE, f"version {state['version']} is made of weights of which none is in storage"
    if seals and not named(seals) and seals["changes"] > changes(connection):
        both = seals["seals"].get(MANIFEST, ())
        if not files.storage.exists(MANIFEST) or file_seal(files.storage.read(MANIFEST)) not in both:
            yield SEALS, f"{MANIFEST} is not the file that it records"
    for name, entry in files.entries() if missing else ():
        for table in (t.requests, t.tombstones):
            numbers = [row["seq"] for row in entry[table.name] if row["request_id"] in missing]
            for part in parts(numbers):
                query = sa.select(table.c.request_id).where(table.c.seq.in_(part))
                if others := set(connection.scalars(query)) - set(missing):  # a proposal is one of them itself
                    yield name, f"its {table.name} have numbers that the ledger gave to request {min(others)}"


def _refuse_given_twice(connection: Connection, certificates: Collection[Document]) -> None:
    """Refuse certificates of requests to which the ledger gave other ones."""  # noqa: DOC501 - helper of `replay`
    of = {document["number"]: document["request"]["id"] for document in certificates}
    query = sa.select(t.requests.c.certificate, t.requests.c.request_id).where(t.requests.c.certificate.is_not(None))
    for number, request_id in connection.execute(query):
        if of.get(number) != request_id:
            raise StateError(
                f"certificate {number} in storage is not the one that the ledger gave this number; nothing was changed",
                expected=f"a certificate of request {request_id}",
                got=f"one of request {of.get(number)}",
                remedy="ledger and certificates are of different courses of this system's life: restore the newest of "
                "both, and run `hybridmu ledger replay` again",
            )


def _restore_requests(
    connection: Connection, entries: Collection[tuple[str, Document]], missing: Collection[str]
) -> int:
    """Return how many tombstones came back with the requests that the journal has, as they were accepted."""
    tombstones = 0
    for part in parts(sorted(missing)):
        for table in (t.requests, t.approvals, t.idempotency):  # of a proposal that was approved since
            connection.execute(table.delete().where(table.c.request_id.in_(part)))
    for _, entry in entries:
        for table in TABLES:
            rows = [typed(row) for row in entry.get(table.name, ()) if row["request_id"] in missing]
            if table is t.requests:
                rows = [_reopened(row) for row in rows]
            if table is t.idempotency:
                rows = keyed(rows)
            if rows:
                connection.execute(table.insert(), rows)
            tombstones += len(rows) if table is t.tombstones else 0
    begin_earlier(connection)
    tell(connection, missing, "accepted")  # perhaps once more: whether they were told of it went with them
    if tombstones and connection.dialect.name == "postgresql":  # numbers were given, not drawn
        for numbered in ("tombstones", "requests"):
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{numbered}', 'seq'), (SELECT MAX(seq) FROM {numbered}))"
            )
    return tombstones


def _restore_version(connection: Connection, state: Document) -> None:
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


def _close(connection: Connection, certificate: Document) -> None:
    """Mark a request PURGED that has a certificate: its rows are gone, whatever an older ledger says."""
    request = certificate["request"]
    mine = t.requests.c.request_id == request["id"]
    known = [name for name in _TIMES if request[name] is not None]
    times = {name: datetime.fromisoformat(request[name]).timestamp() for name in known}
    values = {"state": RequestState.PURGED, "certificate": certificate["number"], "reason": None, **times}
    again = changed(connection, t.requests.c.state != RequestState.PURGED, [request["id"]])
    connection.execute(t.requests.update().where(mine).values(**values))
    tell(connection, again, "purged")
    connection.execute(t.tombstones.update().where(t.tombstones.c.request_id == request["id"]).values(key=None))
    connection.execute(t.evidence.delete().where(t.evidence.c.request_id == request["id"]))


def _reopened(row: dict[str, Any]) -> dict[str, Any]:
    """Return a request as it was accepted: what happened since is found again, or done again."""
    kept = {"seq", "request_id", "strategy", "caller", "keys", "already_forgotten", "ignored_unknown"}
    kept |= {"received_at", "deadline_at", "origin"}
    fields = {name: value for name, value in row.items() if name in kept}
    return {**fields, "state": RequestState.PLANNED}


def keyed(rows: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the idempotency keys among these that were hashed with a secret."""
    return [row for row in rows if "key_id" in row]


def plain(row: Any) -> dict[str, Any]:
    """Return a row of a table as JSON."""
    return {name: {"hex": value.hex()} if isinstance(value, bytes) else value for name, value in row.items()}


def typed(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a table that `plain` wrote."""
    return {name: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for name, value in row.items()}
