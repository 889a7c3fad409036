"""Pause and legal holds."""

from __future__ import annotations

import pytest

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.operator_controls import Controls
from tests.support import key, rows_of


def test_a_pause_is_seen_by_everybody_until_it_ends(engine):
    controls = Controls(engine)
    assert controls.paused() is None
    controls.pause("backup", "a")
    made = controls.pause("disk", "b")
    assert Controls(engine).paused() == made
    assert (made.reason, made.caller) == ("disk", "b")
    controls.resume()
    controls.resume()
    assert Controls(engine).paused() is None


def test_holds_are_placed_listed_and_lifted(ledger, engine):
    controls = Controls(engine)
    request = ledger.accept([key(1)])
    one, all_ = controls.hold(request.request_id, "court", "a"), controls.hold(None, "audit", "b")
    assert controls.holds() == [one, all_]
    assert [(h.request_id, h.reason, h.caller) for h in (one, all_)] == [
        (request.request_id, "court", "a"), (None, "audit", "b")
    ]  # fmt: skip
    controls.lift(one.number)
    assert controls.holds() == [all_]
    assert len(rows_of(engine, t.holds)) == 2, "it stays in the log"
    for number in (one.number, 99):
        with pytest.raises(StateError, match=f"there is no hold {number}"):
            controls.lift(number)
    assert controls.hold(None, "again", "a").number not in {one.number, all_.number}
    with pytest.raises(StateError, match="r-unknown can't be held"):
        controls.hold("r-unknown", "x", "a")
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(purged_at=1.0))
    with pytest.raises(StateError, match=r"(?s)can't be held.*a purged one"):
        controls.hold(request.request_id, "x", "a")
