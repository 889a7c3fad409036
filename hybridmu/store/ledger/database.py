"""The database of one system: every store of its ledger, made once over one engine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine

from hybridmu.store.ledger.approvals import Approvals
from hybridmu.store.ledger.console_sessions import ConsoleSessions
from hybridmu.store.ledger.corruption_reports import Damages
from hybridmu.store.ledger.engine.clock import ledger_time
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.engine.sqlite import files_beside
from hybridmu.store.ledger.evaluations import Evaluations
from hybridmu.store.ledger.exclusion_digests import ExclusionDigests
from hybridmu.store.ledger.file_seals import Seals
from hybridmu.store.ledger.forwards import Forwards
from hybridmu.store.ledger.health import Vitals, read_vitals
from hybridmu.store.ledger.ingestions import Ingestions
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.ledger_identity import Identity
from hybridmu.store.ledger.linked_systems import Links
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ledger.progress import Progress
from hybridmu.store.ledger.purge.database_scrub import clean
from hybridmu.store.ledger.purge.decommission_record import DecommissionRecord
from hybridmu.store.ledger.purge.purge_evidence import PurgeEvidence
from hybridmu.store.ledger.purge.purge_records import Deletions
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.store.ledger.replies import Replies
from hybridmu.store.ledger.request_pages import RequestPages
from hybridmu.store.ledger.tokens import Tokens
from hybridmu.store.ledger.webhook_queue import Webhooks
from hybridmu.store.storage.file_modes import PRIVATE, Modes
from hybridmu.store.storage.storage import Storage

if TYPE_CHECKING:
    from hybridmu.store.keyring import Keyring
    from hybridmu.store.ledger.suppression_list import Guard


class Database:
    """The stores of one ledger. Outside this room it stands for the database; nobody else speaks SQL.

    Args:
        engine: From `opening.connect`; see `open`.

    Attributes:
        engine: For functions of this room.
        identity: The configuration and the system that it belongs to.
        ledger: Requests and tombstones.
        approvals: Requests that wait for a second person.
        progress: What the coordinator marks on requests.
        pages: Requests as lists show them.
        registry: Versions and the serving pointer.
        replicas: Who serves.
        lease: Who coordinates.
        measurements: What was measured of jobs and updates.
        evaluations: Quality of versions.
        controls: Pauses and legal holds.
        exclusions: What exclusion manifests list.
        deletions: Purges.
        evidence: What was found of rows before they were purged.
        ingestions: New data.
        links: Models over the same people.
        forwards: Which requests they have.
        seals: What files of the lake hold.
        damages: Served weights that somebody found damaged.
        decommission: The end of the system.
        tokens: Who may call.
        replies: Answers that Fides waits for.
        webhooks: What receivers have still to be told of requests.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.identity = Identity(engine)
        self.ledger = Ledger(engine)
        self.approvals = Approvals(engine)
        self.progress = Progress(engine)
        self.pages = RequestPages(engine)
        self.registry = Registry(engine)
        self.replicas = Replicas(engine)
        self.lease = Lease(engine)
        self.measurements = Measurements(engine)
        self.evaluations = Evaluations(engine)
        self.controls = Controls(engine)
        self.exclusions = ExclusionDigests(engine)
        self.deletions = Deletions(engine)
        self.evidence = PurgeEvidence(engine)
        self.ingestions = Ingestions(engine)
        self.forwards = Forwards(engine)
        self.links = Links(engine)
        self.seals = Seals(engine)
        self.damages = Damages(engine)
        self.decommission = DecommissionRecord(engine)
        self.tokens = Tokens(engine)
        self.replies = Replies(engine)
        self.webhooks = Webhooks(engine)

    @classmethod
    def open(cls, url: str, *, create: bool = False, modes: Modes = PRIVATE) -> Database:
        """Return the database at a URL; arguments and errors as those of `opening.connect`."""
        return cls(connect(url, create=create, modes=modes))

    def guard(self, keyring: Keyring) -> Guard:
        """Return the suppression list, which recognises what the keys of a keyring made."""
        from hybridmu.store.ledger.suppression_list import Guard  # it reads tables; few processes need it

        return Guard(self.engine, keyring)

    def journal(self, storage: Storage) -> Journal:
        """Return the mirror of this database in a storage."""
        return Journal(storage, self.engine)

    def sessions(self, seconds: float, idle_seconds: float) -> ConsoleSessions:
        """Return the sessions of the console; arguments as those of `ConsoleSessions`."""
        return ConsoleSessions(self.engine, seconds, idle_seconds)

    def vitals(self) -> Vitals:
        """Return the health of the system in a few numbers."""
        return read_vitals(self.engine)

    def time(self) -> float:
        """Return the ledger's own time, in seconds since 1970."""
        return ledger_time(self.engine)

    def clean(self, needles: Collection[bytes], beat: Callable[[], None]) -> dict[str, int]:
        """Take deleted values out of every place where they may still lie, and look.

        Args:
            needles: As in `database_scrub.clean`.
            beat: As there.

        Returns:
            How many needles were searched for, in how many bytes.
        """
        return clean(self.engine, needles, beat)

    def files(self) -> list[Path]:
        """Return the files of an SQLite database, its own first; none of a server's."""
        if self.engine.dialect.name != "sqlite":
            return []  # its URL names no file
        path = Path(str(self.engine.url.database))
        return [path, *files_beside(path)]

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.engine.dispose()
