"""Token authentication and rate limiting: a short-lived copy of all tokens, and token buckets."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from hybridmu.core import token_scopes
from hybridmu.core.token_scopes import Token

# An unknown token makes us look again, but not more often than this: guesses must not become queries.
_LOOK_AGAIN_SECONDS = 0.2
_MOST_BUCKETS = 10_000


class TokenDirectory:
    """The tokens that count now, read again after some seconds.

    Args:
        tokens: Reads all tokens.
        seconds: How long what was read counts: a revocation is noticed after this long at most.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, tokens: Callable[[], Iterable[Token]], seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._tokens, self._seconds, self._clock = tokens, seconds, clock
        self._known: dict[str, Token] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def authenticate(self, text: str) -> Token | None:
        """Return the token that a caller presented, or None where it does not count.

        Args:
            text: The presented token, without the word `Bearer`.

        Raises:
            DatabaseError: The tokens can't be read: nobody comes in.
        """
        name = token_scopes.token_id(text)
        if name is None:
            return None
        known = self._find(name)
        return known if token_scopes.holds(text, known, self._clock()) else None

    def current(self, token_id: str) -> Token | None:
        """Return a token that somebody came in with before, or None where it does not count any more.

        Args:
            token_id: Its public part.

        Raises:
            DatabaseError: The tokens can't be read.
        """
        known = self._find(token_id)
        return known if known is not None and known.valid(self._clock()) else None

    def _find(self, name: str) -> Token | None:
        with self._lock:
            age = self._clock() - self._read_at
            # A clock that was set back must not make old knowledge last.
            if age < 0 or age >= (self._seconds if name in self._known else min(self._seconds, _LOOK_AGAIN_SECONDS)):
                self._known = {token.token_id: token for token in self._tokens()}
                self._read_at = self._clock()
            return self._known.get(name)


class RateLimiter:
    """A token bucket per name: so many at once, so many a second in the long run.

    Args:
        per_second: How fast a bucket fills.
        burst: How much it holds.
        clock: Seconds that never go back.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> float:
        """Take one from a bucket.

        Args:
            name: Whose.

        Returns:
            0, or where it is empty the seconds until it is not.
        """
        with self._lock:
            now = self._clock()
            level, at = self._levels.pop(name, (float(self._burst), now))
            level = min(self._burst, level + (now - at) * self._per_second)
            wait = 0.0 if level >= 1 else (1 - level) / self._per_second
            self._levels[name] = (level if wait else level - 1, now)
            # The longest unused one is the fullest: what is forgotten of it is the least.
            while len(self._levels) > _MOST_BUCKETS:
                self._levels.popitem(last=False)
            return wait
