"""Tokens, their directory and the rate limiter: pure parts, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core import token_scopes
from hybridmu.core.token_scopes import SCOPES, Token
from hybridmu.serving.auth import RateLimiter, TokenDirectory

IDS = st.binary(min_size=token_scopes.TOKEN_ID_BYTES, max_size=token_scopes.TOKEN_ID_BYTES)
SECRETS = st.binary(min_size=token_scopes.SECRET_BYTES, max_size=token_scopes.SECRET_BYTES)


def made(name: bytes = bytes(5), secret: bytes = bytes(32), **fields) -> tuple[str, Token]:
    text = token_scopes.written(name, secret)
    token = Token(str(token_scopes.token_id(text)), "privacy", token_scopes.digest(text), frozenset({"forget"}), 100.0)
    return text, replace(token, **fields)


@given(IDS, SECRETS, SECRETS)
def test_a_token_is_held_by_whoever_has_its_secret_and_nobody_else(name, secret, other):
    text, token = made(name, secret)
    assert token_scopes.holds(text, token, 200.0)
    assert token_scopes.holds(token_scopes.written(name, other), token, 200.0) == (secret == other)
    assert not token_scopes.holds(text, None, 200.0)
    assert secret.hex() not in repr(token)
    assert secret not in token.digest


@given(st.text(max_size=100))
def test_no_text_is_taken_for_a_token(text):
    assert not token_scopes.holds(text, made()[1], 200.0)
    assert not token_scopes.holds(made()[0] + text[:1], made()[1], 200.0) or not text


@pytest.mark.parametrize(("fields", "now", "valid"), [
    ({}, 1e12, True),
    ({"expires_at": 150.0}, 149.9, True),
    ({"expires_at": 150.0}, 150.0, False),
    ({"revoked_at": 120.0}, 110.0, False),
])  # fmt: skip
def test_when_a_token_counts(fields, now, valid):
    text, token = made(**fields)
    assert token.valid(now) == token_scopes.holds(text, token, now) == valid


def test_scopes():
    for scope in SCOPES:
        token = made(scopes=frozenset({scope}))[1]
        assert [each for each in SCOPES if token.allows(each)] == ([*SCOPES] if scope == "admin" else [scope])
    with pytest.raises(ValueError, match=r"unknown scope.*root"):
        token_scopes.scopes(["forget", "root"])
    with pytest.raises(ValueError, match="no scope"):
        token_scopes.scopes([])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_revocation_is_noticed_in_time_and_guesses_are_no_queries():
    clock, reads, (text, token) = Clock(), [], made()
    kept = [token]

    def read():
        reads.append(clock.now)
        return list(kept)

    tokens = TokenDirectory(read, 2.0, clock)
    assert tokens.authenticate(text) == token
    assert all(tokens.authenticate(text) == token for _ in range(10))
    assert len(reads) == 1
    kept[:] = [replace(token, revoked_at=clock.now)]
    clock.now += 1.9
    assert tokens.authenticate(text) == token
    clock.now += 0.1
    assert tokens.authenticate(text) is None
    assert len(reads) == 2
    guesses = [token_scopes.written(bytes([n] * 5), bytes(32)) for n in range(1, 100)]
    assert not any(map(tokens.authenticate, guesses))
    assert len(reads) == 2
    # A new token counts soon, and a clock that is set back does not make old knowledge last.
    other, fresh = made(bytes([7] * 5))
    kept[:] = [token, fresh]
    clock.now += 0.2
    assert tokens.authenticate(other) == fresh
    kept[:] = []
    clock.now -= 500
    assert tokens.authenticate(text) is None


def test_without_the_ledger_nobody_comes_in():
    def broken():
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        TokenDirectory(broken, 2.0).authenticate(made()[0])


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 10), st.integers(1, 10))
def test_a_bucket_lets_no_more_pass_than_it_says(pauses, per_second, burst):
    clock, passed = Clock(), 0
    buckets = RateLimiter(per_second, burst, clock)
    for pause in pauses:
        clock.now += pause
        wait = buckets.take("a")
        passed += wait == 0
        assert 0 <= wait <= 1 / per_second + 1e-9
    assert passed <= burst + sum(pauses) * per_second + 1e-6
    assert passed >= min(len(pauses), burst)
    clock.now += 1.001 / per_second
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0, "everybody has a bucket"


def test_buckets_do_not_grow_without_end():
    buckets = RateLimiter(1.0, 1, Clock())
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    for n in range(10_100):
        buckets.take(f"@{n}")
    assert len(buckets._levels) == 10_000
