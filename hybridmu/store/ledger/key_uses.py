"""Uses of keys, by all that remembers them: ledger, journal and certificates.

A key that is lost with its number must not be made again under it: its backup could not be put back any more. The key
folder can't tell what was in it, so it is asked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import CorruptBlobError
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import KeyName, Uses
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.idempotency import remembered_by
from hybridmu.store.ledger.journal.journal_files import guard_keys_in
from hybridmu.store.storage.storage import Storage

# Nothing of these is ever written without the guard key; most of them name none.
_AFTER_A_KEY = (t.requests, t.readmissions, t.guard_losses, t.links)


def guard_uses(engine: Engine, storage: Storage) -> Uses:
    """Return what is known of guard keys that were used.

    Args:
        engine: The database.
        storage: Looked through where the database names no key.

    Returns:
        Ids, and whether there was one at all.
    """
    with reader(engine).begin() as connection:
        given_up = frozenset(map(str, connection.scalars(sa.select(t.guard_losses.c.key_id).distinct())))
        found = given_up | frozenset(_in_ledger(connection))
        before = bool(found) or any(connection.execute(table.select().limit(1)).first() for table in _AFTER_A_KEY)
    found = found or _in_storage(storage)
    return Uses(found, given_up, before or bool(found))


def used_numbers(which: KeyName, engine: Engine | None, storage: Storage) -> int:
    """Return how many keys of one kind were used at least, for a rotation: it gives a number beyond them.

    Args:
        which: `signing` or `guard`.
        engine: The database; None when it is not there.
        storage: Of the system.
    """
    if which == "signing":
        return len(Certificates(storage).signers())
    uses = guard_uses(engine, storage) if engine is not None else Uses()
    return max(len(uses.key_ids | _in_storage(storage)), int(uses.before))


def _in_ledger(connection: Connection) -> Iterator[str]:
    yield from map(str, connection.scalars(sa.select(t.guard.c.key_id).distinct()))
    yield from remembered_by(connection)


def _in_storage(storage: Storage) -> frozenset[str]:
    """Return the guard keys that certificates and the journal name, as far as these can be read."""
    named = {str(key["key_id"]) for document in _readable(Certificates(storage)) for key in document["keys"]}
    return frozenset(named | guard_keys_in(storage))


def _readable(certificates: Certificates) -> Iterator[dict[str, Any]]:
    for number in certificates.numbers():
        try:
            yield certificates.get(number)
        except CorruptBlobError:  # told of where it matters; the others name the same keys
            continue
