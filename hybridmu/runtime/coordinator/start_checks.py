"""Start checks: storage, ledger and task examined before the lease is taken; remains of crashes removed after it."""

from __future__ import annotations

from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.task_checks import TaskChecks
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.consistency_check import check_soundness
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ownership import bind, claim, refuse_links, refuse_lost_rows
from hybridmu.types import RequestState

_BEGUN = (RequestState.PLANNED, RequestState.APPLIED, RequestState.SERVED, RequestState.FAILED)


class StartChecks:
    """Looks whether a coordinator may start on a storage and a database.

    Args:
        site: Storage, settings and task.
        database: Of the system.
        journal: What storage remembers of the ledger.
        keyring: Of the system.
    """

    def __init__(self, site: Site, database: Database, journal: Journal, keyring: Keyring) -> None:
        self._site, self._database, self._journal, self._keyring = site, database, journal, keyring
        self._sound, self._tried, self._tidied = False, False, False

    def before_lease(self) -> None:
        """Check that storage and database belong together, are sound, and that the task still runs.

        What was once found to be sound is not checked again by the next call.
        """
        site, identity = self._site, self._database.identity
        refuse_links(site.storage)
        if site.lake.exists:
            # First: the journal of a storage says nothing of another system's ledger.
            bind(site.storage, identity, site.settings, create=False, replace=False)
            if not self._sound:
                check_soundness(self._database.engine, self._journal)
                self._sound = True
            self._journal.check()
            claim(site.storage, identity, site.settings)  # an earlier release did not
            self._check_task()
        else:
            refuse_lost_rows(site.storage, identity)

    def tidy(self) -> None:
        """Remove, once, what crashed processes left half-made; only the holder of the lease writes now."""
        if not self._tidied:
            self._site.storage.drop_stale_staging()
            self._site.storage.drop_unfinished()
            self._keyring.drop_unfinished()
            self._journal.renew()
            self._journal.keep([r.request_id for r in self._database.ledger.requests(_BEGUN)])
            self._tidied = True

    def _check_task(self) -> None:
        """Try the task once where its code, or what runs it, is not what made the served weights."""
        registry = self._database.registry
        if self._tried or registry.served() is None:
            return
        voters = [sub for sub in registry.version().shards if sub.blob]
        if not all(self._site.made_alike(sub.shard, sub.head) for sub in voters):
            TaskChecks(self._site).of_lake(self._database.ledger.tombstones(), begins=False)
        self._tried = True
