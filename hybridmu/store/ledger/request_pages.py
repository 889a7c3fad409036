"""Pages of requests: what a list shows is read from the ledger, and no more than that."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from hybridmu.errors import RequestError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.request_rows import to_request
from hybridmu.types import ForgetRequest, RequestState

MOST = 1000


@dataclass(frozen=True)
class Page:
    """A part of a list of requests.

    Attributes:
        requests: Newest first.
        next_before: What `before` has to be for the part after it; None: there is no more.
    """

    requests: tuple[ForgetRequest, ...]
    next_before: int | None


class RequestPages:
    """Requests as lists show them; the cost of a page does not grow with the ledger.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._read = reader(engine)

    def page(
        self,
        *,
        caller: str | None = None,
        states: Collection[RequestState] = (),
        limit: int = 50,
        before: int | None = None,
    ) -> Page:
        """Return requests, newest first.

        Args:
            caller: Only those of this caller.
            states: Only those in one of these states; all when empty.
            limit: How many at most, 1 to 1,000.
            before: `next_before` of the page that comes before this one; None: from the newest on.

        Returns:
            The page. A request that changes its state while pages are turned may be left out or seen twice; none that
            keeps it is.

        Raises:
            RequestError: The limit is out of its range.
        """
        if not 1 <= limit <= MOST:
            raise RequestError("the page has no such length", expected=f"a limit from 1 to {MOST}", got=str(limit))
        with self._read.begin() as connection:
            # One index per question: a single query for several states would read the table.
            wanted: list[RequestState | None] = [*dict.fromkeys(states)] or [None]
            rows = [row for state in wanted for row in _newest(connection, caller, state, limit + 1, before)]
        rows.sort(key=lambda row: row.seq, reverse=True)
        more = len(rows) > limit
        shown = rows[:limit]
        return Page(tuple(map(to_request, shown)), int(shown[-1].seq) if more else None)

    def number_of(self, request_id: str, caller: str | None = None) -> int | None:
        """Return what `page` takes as `before` for the requests before one, or None where there is none.

        A part of a list is named by a request: its number would tell how many requests others made.

        Args:
            request_id: The request.
            caller: It must be this caller's.
        """
        query = sa.select(t.requests.c.seq).where(t.requests.c.request_id == request_id)
        if caller is not None:
            query = query.where(t.requests.c.caller == caller)
        with self._read.begin() as connection:
            found = connection.scalar(query)
        return None if found is None else int(found)

    def totals(self, caller: str | None = None) -> dict[RequestState, int]:
        """Return how many requests are in each state, every state.

        Args:
            caller: Only those of this caller.
        """
        query = sa.select(t.requests.c.state, sa.func.count()).group_by(t.requests.c.state)
        if caller is not None:
            query = query.where(t.requests.c.caller == caller)
        with self._read.begin() as connection:
            found = {state: int(count) for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in RequestState}

    def overdue(self, caller: str | None = None) -> int:
        """Return how many requests are past their deadline and not purged.

        Args:
            caller: Only those of this caller.
        """
        open_ = [state for state in RequestState if state not in {RequestState.PURGED, RequestState.CANCELLED}]
        late = t.requests.c.state.in_(open_) & (t.requests.c.deadline_at < time.time())
        query = sa.select(sa.func.count()).select_from(t.requests).where(late)
        if caller is not None:
            query = query.where(t.requests.c.caller == caller)
        with self._read.begin() as connection:
            return int(connection.scalar(query) or 0)


def _newest(
    connection: Connection, caller: str | None, state: RequestState | None, limit: int, before: int | None
) -> list[Row[tuple[object, ...]]]:
    query = t.requests.select().order_by(t.requests.c.seq.desc()).limit(limit)
    if caller is not None:
        query = query.where(t.requests.c.caller == caller)
    if state is not None:
        query = query.where(t.requests.c.state == state)
    if before is not None:
        query = query.where(t.requests.c.seq < before)
    return list(connection.execute(query).all())
