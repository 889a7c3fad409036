"""Log lines of processes that stay, as text or as JSON; never with an id, a row or a token's secret in them."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

from hybridmu.config import LogSettings

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _OneLine(logging.Formatter):
    """A formatter of messages that stay in their line: what was sent to us can't write a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return a record as text, what can't be printed escaped."""
        record.message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.message)
        return super().formatMessage(record)


def start_logging(settings: LogSettings) -> None:
    """Send this process's log lines to standard error as the settings say; a second call replaces the first.

    Args:
        settings: Format and level.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(_FIELDS) if settings.format == "json" else _OneLine(_FIELDS))
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
