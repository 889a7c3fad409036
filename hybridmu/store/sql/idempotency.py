"""Idempotency keys: the same key names the same request, whichever verb it came with.

Callers like to put an id into a key, and what is asked is ids: the ledger holds neither, but hashes of both, the
second one keyed with the first, so that a purge leaves nothing to guess from.
"""

from __future__ import annotations

import hashlib
import json

from sqlalchemy.engine import Connection

from hybridmu.errors import ConflictError
from hybridmu.store.sql import tables as t


def repeated(connection: Connection, key: str | None, payload: object) -> str | None:
    """Return the name of the request or ingestion that a key names already.

    Args:
        connection: In any transaction.
        key: As the caller gave it; None names nothing.
        payload: What is asked now; JSON.

    Raises:
        ConflictError: It came with another payload.
    """
    if key is None:
        return None
    row = connection.execute(t.idempotency.select().where(t.idempotency.c.key == _name(key))).first()
    if row is None:
        return None
    if row.payload != _digest(key, payload):
        raise ConflictError(
            f"the idempotency key {key!r} was used with another payload",
            expected="the same verb, rows and options",
            remedy="use a new key for a new request",
        )
    return str(row.request_id)


def remember(connection: Connection, key: str | None, payload: object, name: str) -> None:
    """Let a key name a request or ingestion, in the caller's write transaction."""
    if key is not None:
        connection.execute(
            t.idempotency.insert().values(key=_name(key), payload=_digest(key, payload), request_id=name)
        )


def _name(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=32, person=b"idempotency").hexdigest()


def _digest(key: str, payload: object) -> str:
    secret = hashlib.blake2b(key.encode(), person=b"payload").digest()
    return hashlib.blake2b(json.dumps(payload).encode(), digest_size=16, key=secret).hexdigest()
