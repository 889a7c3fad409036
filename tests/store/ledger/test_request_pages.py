"""Lists of requests: page by page, newest first, and counts that read an index alone."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from hybridmu.errors import RequestError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.request_pages import RequestPages
from hybridmu.types import RequestState
from tests.support import key


@pytest.fixture
def pages(ledger, engine):
    """Eleven requests of two callers, every third one CANCELLED."""
    for number in range(11):
        made = ledger.accept([key(number + 1)], caller="ab"[number % 2])
        if number % 3 == 0:
            ledger.cancel(made.request_id)
    return RequestPages(engine)


def test_pages_follow_each_other_from_the_newest_to_the_oldest(pages, ledger):
    expected = ledger.requests()[::-1]
    found, before, sizes = [], None, []
    while True:
        page = pages.page(limit=4, before=before)
        found += page.requests
        sizes.append(len(page.requests))
        before = page.next_before
        if before is None:
            break
    assert (found, sizes) == (expected, [4, 4, 3])
    assert pages.page(limit=11).next_before is None, "there is no empty page after the last one"


@pytest.mark.parametrize("caller", [None, "a", "b", "nobody"])
@pytest.mark.parametrize(
    "states", [(), (RequestState.CANCELLED,), (RequestState.RECEIVED, RequestState.CANCELLED), (RequestState.PURGED,)]
)
def test_a_page_holds_what_is_asked_for_and_nothing_else(pages, ledger, caller, states):
    expected = ledger.requests(states, caller)[::-1]
    first = pages.page(caller=caller, states=states, limit=2)
    assert list(first.requests) == expected[:2]
    if first.next_before is not None:
        second = pages.page(caller=caller, states=states, limit=2, before=first.next_before)
        assert list(second.requests) == expected[2:4]
    assert (first.next_before is None) == (len(expected) <= 2)


def test_totals_count_every_state(pages):
    assert pages.totals() == dict.fromkeys(RequestState, 0) | {RequestState.RECEIVED: 7, RequestState.CANCELLED: 4}
    assert pages.totals("b")[RequestState.RECEIVED] == 3
    assert sum(pages.totals("nobody").values()) == 0


def test_overdue_are_open_requests_past_their_deadline(pages, engine):
    assert pages.overdue() == 0
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(deadline_at=1.0))
    assert (pages.overdue(), pages.overdue("b")) == (7, 3)


@pytest.mark.parametrize("limit", [0, -1, 1001])
@pytest.mark.sampled
def test_a_page_has_a_length(pages, limit):
    with pytest.raises(RequestError, match="no such length"):
        pages.page(limit=limit)


@pytest.mark.parametrize("caller", [None, "a"])
@pytest.mark.parametrize("states", [(), (RequestState.PURGED,)])
@pytest.mark.sampled
def test_a_page_is_read_from_an_index_and_sorted_nowhere(pages, engine, caller, states):
    """So that its cost does not grow with the ledger."""
    if engine.dialect.name != "sqlite":
        return  # it plans by statistics, and a small table is read at once
    plans = []

    def explain(connection, cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            plans.extend(
                str(row[3]) for row in cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )

    event.listen(engine, "before_cursor_execute", explain)
    pages.page(caller=caller, states=states, limit=2, before=7)
    event.remove(engine, "before_cursor_execute", explain)
    assert len(plans) == 1
    assert plans[0].startswith("SEARCH requests USING ")
