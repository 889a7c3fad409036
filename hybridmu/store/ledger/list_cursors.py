"""Names of the parts of a list: a request, and not its number, which would tell how many requests others made."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import reader


def number_of(engine: Engine, request_id: str, caller: str | None = None) -> int | None:
    """Return what `RequestPages.page` takes as `before` for the requests before one, or None where there is none.

    Args:
        engine: From `database.connect`.
        request_id: The request.
        caller: It must be this caller's.
    """
    query = sa.select(t.requests.c.seq).where(t.requests.c.request_id == request_id)
    if caller is not None:
        query = query.where(t.requests.c.caller == caller)
    with reader(engine).begin() as connection:
        found = connection.scalar(query)
    return None if found is None else int(found)
