"""TableLayout: rewrites, once, the tables that an earlier release made, before anything else is at work on them."""

from __future__ import annotations

import logging
import time

from hybridmu.errors import HybridMUError, LeaseLostError
from hybridmu.runtime.purge.table_rewrite import Beat, is_current, rewrite_tables
from hybridmu.runtime.workers.context import Site

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 60.0


class TableLayout:
    """Sees to it that values stand in rows alone; until then no purge is certified.

    Args:
        site: The lake and its storage.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._done = False
        self._not_before = 0.0

    def step(self, flying: bool, beat: Beat) -> None:
        """Rewrite what is to be rewritten, if nothing flies.

        Args:
            flying: Whether any job may be reading tables.
            beat: Keeps the lease.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        if self._done or flying or time.monotonic() < self._not_before:
            return
        try:
            if not is_current(self._site.lake):
                count = rewrite_tables(self._site.lake, beat)
                _log.info("%d table(s) of an earlier release were rewritten", count)
        except LeaseLostError:
            raise
        except (HybridMUError, OSError) as error:  # forgetting must go on meanwhile
            _log.warning("the tables of an earlier release can't be rewritten now: %s", error)
            self._not_before = time.monotonic() + _RETRY_SECONDS
            return
        self._done = True
