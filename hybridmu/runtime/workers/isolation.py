"""Faults of one request, round or errand, kept apart from everything else that the coordinator does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hybridmu.errors import DatabaseError, LeaseLostError, StorageError
from hybridmu.user_code import place

_log = logging.getLogger(__name__)
# What concerns everybody: a step that meets it ends, and the next coordinator starts from what is durable.
_OF_ALL = (LeaseLostError, DatabaseError, StorageError)
_RETRY_SECONDS = 60.0


@contextmanager
def apart(what: str, failed: Callable[[Exception], None] = lambda _: None) -> Iterator[None]:
    """Let an exception inside end what is inside, and nothing else; a lost lease, database or storage goes on up.

    Args:
        what: What is done, for the log, which gets the error's type and place: its text may name a row.
        failed: Called with the exception.

    Yields:
        Nothing.
    """
    try:
        yield
    except _OF_ALL:
        raise
    except Exception as error:
        _log.error("%s failed: %s at %s", what, type(error).__name__, place(error) or "an unknown place")
        failed(error)


class Errands:
    """Work that no request asked for, by name: what fails is left alone for a minute."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}

    def due(self, name: str) -> bool:
        """Return whether an errand did not fail just now."""
        return time.monotonic() >= self._not_before.get(name, 0.0)

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Run an errand; what it raises ends it alone.

        Args:
            name: Of the errand.

        Yields:
            Nothing.
        """
        with apart(name, lambda _: self._not_before.update({name: time.monotonic() + _RETRY_SECONDS})):
            yield
