"""Recorder: keeps what the lake's files hold, in the ledger and in its journal, before and after they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_seals import Change
from hybridmu.store.storage.sealed_json import file_seal


class Recorder:
    """The seals of a system's lake, as a writer of its files needs them.

    Args:
        lake: What is read of it is compared with the ledger from now on.
        database: Of the system.
    """

    def __init__(self, lake: Lake, database: Database) -> None:
        self._lake, self._seals, self._journal = lake, database.seals, database.journal(lake.storage)
        self._identity = database.identity
        lake.compare_with(self._seals.known)

    def begin(self, seals: Mapping[str, str]) -> None:
        """Record the files of a new lake, before its manifest names them.

        Raises:
            StorageMismatchError: Another first training has claimed the ledger meanwhile.
        """
        self._identity.bind(self._lake.settings.identity(), create=False)
        self._seals.begin(seals)
        self._journal.keep_seals()

    def propose(self, token: int, changes: Mapping[str, Change]) -> None:
        """Write down, fenced, what files hold and what they will hold; durable in ledger and journal.

        Args:
            token: The coordinator's fencing token.
            changes: Name → (seal now, seal then).
        """
        self._seals.propose(token, changes)
        self._journal.keep_seals()

    def propose_generation(self, token: int, seals: Mapping[str, str], manifest: bytes) -> list[str]:
        """Write down, fenced, the files of a new generation and the manifest that will name it.

        Args:
            token: The coordinator's fencing token.
            seals: Name → seal of the new files.
            manifest: What it will be.

        Returns:
            The names to confirm.
        """
        now = self._manifest_seal()
        changes: dict[str, Change] = {name: (None, seal) for name, seal in seals.items()}
        self.propose(token, changes | {MANIFEST: (now, file_seal(manifest))})
        return [*seals, MANIFEST]

    def confirm(self, token: int, names: Collection[str]) -> None:
        """Say, fenced, that files are as proposed."""
        self._seals.confirm(token, names)

    def keep(self) -> None:
        """Write what is recorded now into the journal."""
        self._journal.keep_seals()

    def settle(self, token: int) -> None:
        """Find out, fenced, what came to pass of changes that a crash interrupted."""
        self._seals.settle(token, self._seal_of)

    def _manifest_seal(self) -> str:
        return file_seal(self._lake.storage.read(MANIFEST))

    def _seal_of(self, name: str) -> str:
        if not self._lake.storage.exists(name):
            return ""
        return self._manifest_seal() if name == MANIFEST else self._lake.seal_of(name)
