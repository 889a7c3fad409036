"""Tokens of callers, in the ledger's database: digests of their secrets, never the secrets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core import token_scopes
from hybridmu.core.token_scopes import Token
from hybridmu.errors import RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.types.text import is_plain

_MAX_CALLER = 80
_DECADES = 1e9  # seconds


class Tokens:
    """Makes, lists and revokes tokens.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def create(self, caller: str, scopes: Iterable[str], seconds: float | None = None) -> tuple[str, Token]:
        """Make a token.

        Args:
            caller: Who will hold it, at most 80 characters.
            scopes: What it allows.
            seconds: How long; None: until it is revoked.

        Returns:
            The token, which nobody can show again, and what is kept of it.

        Raises:
            RequestError: A scope is unknown, or the caller has no name.
        """
        if not caller.strip() or len(caller) > _MAX_CALLER or not is_plain(caller):
            expected = f"a name of 1 to {_MAX_CALLER} characters, none of them a control character"
            raise RequestError("a token needs a caller", expected=expected)
        if seconds is not None and not 0 < seconds <= _DECADES:
            expected = f"seconds above 0, at most {_DECADES:g}"
            raise RequestError("a token must live for a while", expected=expected, got=str(seconds))
        try:
            allowed = token_scopes.scopes(list(scopes))
        except ValueError as error:
            raise RequestError(
                "the scopes of a token are wrong", expected=" or ".join(token_scopes.SCOPES), got=str(error)
            ) from None
        text = token_scopes.written(
            secrets.token_bytes(token_scopes.TOKEN_ID_BYTES), secrets.token_bytes(token_scopes.SECRET_BYTES)
        )
        now, name = time.time(), token_scopes.token_id(text)
        assert name is not None
        token = Token(name, caller, token_scopes.digest(text), allowed, now, None if seconds is None else now + seconds)
        with self._write.begin() as connection:
            connection.execute(t.tokens.insert().values(**_row(token)))
        return text, token

    def rotate(self, token_id: str, grace_seconds: float = 0.0) -> tuple[str, Token]:
        """Make a token with the caller, scopes and life of another, which ends after a while.

        Args:
            token_id: The old one.
            grace_seconds: How long both count, so that its holder can change over.

        Returns:
            As `create`.

        Raises:
            StateError: There is no such token, or it does not count any more.
            RequestError: Both can't count for so long.
        """
        if not 0 <= grace_seconds <= _DECADES:
            expected = f"0 to {_DECADES:g} seconds"
            raise RequestError("the time of change is out of range", expected=expected, got=str(grace_seconds))
        old = self._one(token_id)
        if not old.valid(time.time()):
            raise StateError(f"token {token_id} does not count any more", remedy="make a new one")
        life = None if old.expires_at is None else old.expires_at - old.created_at
        made = self.create(old.caller, old.scopes, life)
        ends = min(time.time() + grace_seconds, old.expires_at or float("inf"))
        self._change(token_id, expires_at=ends)
        return made

    def revoke(self, token_id: str) -> None:
        """End a token now.

        Raises:
            StateError: There is no such token.
        """
        if self._one(token_id).revoked_at is None:
            self._change(token_id, revoked_at=time.time())

    def all(self) -> list[Token]:
        """Return every token that was ever made, oldest first."""
        with self._read.begin() as connection:
            rows = connection.execute(t.tokens.select().order_by(t.tokens.c.created_at, t.tokens.c.token_id)).all()
        return [_token(row) for row in rows]

    def _one(self, token_id: str) -> Token:
        for token in self.all():
            if token.token_id == token_id:
                return token
        raise StateError(f"there is no token {token_id}", remedy="see `hybridmu tokens list`")

    def _change(self, token_id: str, **values: float) -> None:
        with self._write.begin() as connection:
            connection.execute(t.tokens.update().where(t.tokens.c.token_id == token_id).values(**values))


def _row(token: Token) -> dict[str, object]:
    return {
        "token_id": token.token_id,
        "caller": token.caller,
        "digest": token.digest,
        "scopes": " ".join(sorted(token.scopes)),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


def _token(row: sa.Row[tuple[object, ...]]) -> Token:
    allowed = token_scopes.scopes(row.scopes.split())
    return Token(row.token_id, row.caller, row.digest, allowed, row.created_at, row.expires_at, row.revoked_at)
