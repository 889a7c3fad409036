"""Tokens in the ledger's database, and the commands for them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hybridmu.core import token_scopes
from hybridmu.errors import RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.tokens import Tokens


def test_what_is_kept_is_no_secret(ledger, engine):
    tokens = Tokens(engine)
    text, token = tokens.create("privacy", ["forget", "audit"], 60.0)
    assert tokens.all() == [token]
    assert token_scopes.holds(text, token, token.created_at)
    assert (token.caller, token.scopes, token.expires_at) == ("privacy", {"forget", "audit"}, token.created_at + 60)
    with reader(engine).begin() as connection:
        (row,) = connection.execute(sa.select(t.tokens)).all()
    secret = text.rpartition("_")[2]
    assert secret not in repr(row)
    assert bytes.fromhex(secret) not in row.digest
    assert tokens.create("privacy", ["forget"])[0] != tokens.create("privacy", ["forget"])[0]


def test_rotation_leaves_time_and_revocation_none(ledger, engine):
    tokens = Tokens(engine)
    text, old = tokens.create("privacy", ["forget"])
    new_text, new = tokens.rotate(old.token_id, 60.0)
    now = new.created_at
    kept = {token.token_id: token for token in tokens.all()}
    assert token_scopes.holds(text, kept[old.token_id], now + 59)
    assert not token_scopes.holds(text, kept[old.token_id], now + 61)
    assert (new.caller, new.scopes) == (old.caller, old.scopes)
    assert new_text != text
    tokens.revoke(new.token_id)
    tokens.revoke(new.token_id)
    assert not token_scopes.holds(new_text, {x.token_id: x for x in tokens.all()}[new.token_id], now + 1)
    with pytest.raises(StateError, match="does not count any more"):
        tokens.rotate(new.token_id)
    with pytest.raises(StateError, match="no token 0123456789"):
        tokens.revoke("0123456789")


@pytest.mark.parametrize(("caller", "scopes", "seconds", "says"), [
    ("", ["forget"], None, "needs a caller"),
    ("x" * 81, ["forget"], None, "1 to 80"),
    ("a", ["root"], None, "unknown scope"),
    ("a", [], None, "no scope"),
    ("a", ["forget"], 0.0, "above 0"),
    ("a", ["forget"], float("inf"), "above 0"),
])  # fmt: skip
@pytest.mark.sampled
def test_bad_tokens_are_not_made(ledger, engine, caller, scopes, seconds, says):
    tokens = Tokens(engine)
    with pytest.raises(RequestError, match=says):
        tokens.create(caller, scopes, seconds)
    assert tokens.all() == []
