"""Updater as an actor, which also scans the machines of its cluster."""

from __future__ import annotations

from dataclasses import replace

from hybridmu.cluster.ray_log_scan import Searchers
from hybridmu.config import Settings
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.types import SearchJob, SearchOutcome


class ClusterUpdater(Updater):
    """An updater that scans the machines of its cluster too.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._searchers = Searchers()

    def search(self, job: SearchJob) -> SearchOutcome:
        """Search storage, then what Ray wrote on every node, for what was purged.

        Args:
            job: As for any updater.

        Returns:
            The files that still hold a needle.
        """
        found = super().search(job)
        searched, traces = self._searchers.find(job.needles, self.site.settings.model_dump_json().encode())
        return replace(found, found=found.found + traces, looked=(*found.looked, ("nodes", searched)))
