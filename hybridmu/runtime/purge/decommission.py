"""Forgetting everything: the ledger says so first, then storage and database are emptied, then the code looks."""

from __future__ import annotations

import time
from typing import Any

from hybridmu.errors import PurgeError, StateError
from hybridmu.store.key_files import is_key_file
from hybridmu.store.ledger.database import Database
from hybridmu.store.ownership import MARKER
from hybridmu.store.storage.storage import Storage

_KEPT_FOLDER = "certificates/"


class Decommission:
    """The end of a system; every step may be repeated after a crash.

    Args:
        storage: What is emptied; certificates stay.
        database: Of the system; requests, guard entries and their log stay.
    """

    def __init__(self, storage: Storage, database: Database) -> None:
        self.storage, self._database = storage, database

    def announce(self, token: int, reason: str, caller: str) -> None:
        """Say in the ledger, fenced, that the system is over: no request is accepted, no replica answers any more.

        Raises:
            StateError: A legal hold is in force, keys lie in storage, or a linked model has not got all requests yet.
        """
        self.refuse_held()
        self._refuse_keys()
        self._database.decommission.announce(token, reason, caller)

    def refuse_held(self) -> None:
        """Refuse to end while a legal hold is in force.

        Raises:
            StateError: One is.
        """
        if holds := self._database.controls.holds():
            raise StateError(
                "a legal hold keeps this system from being decommissioned",
                got=f"hold {holds[0].number}: {holds[0].reason}",
                remedy="lift it first: `hybridmu lift`",
            )

    def _refuse_keys(self) -> None:
        """Refuse to delete keys that somebody put into storage: another system may use them, and proofs need them."""  # noqa: DOC501
        if keys := [info.name for info in self.storage.list() if is_key_file(info.name.rpartition("/")[2])]:
            raise StateError(
                "keys lie in storage, and would be deleted with it",
                expected="key files outside of storage_url",
                got=f"{len(keys)} file(s): {', '.join(keys[:3])}",
                remedy="move them out, and name their new folder in keys.folder of every system that uses them",
            )

    def empty(self, token: int) -> dict[str, Any]:
        """Delete everything but certificates, requests and the guard, and look.

        Args:
            token: The coordinator's fencing token.

        Returns:
            How many files went and what stays.

        Raises:
            PurgeError: Something is still there.
        """
        going = [info.name for info in self.storage.list() if not self._stays(info.name)]
        links = self.storage.links()  # somebody else's, like what they lead to: they stay, and are told of
        linked = {name.partition("/")[0] for name in links}
        for folder in sorted({name.partition("/")[0] for name in going if "/" in name} - linked):
            self.storage.delete_folder(folder)
        self.storage.delete(*[name for name in going if "/" not in name or name.partition("/")[0] in linked])
        now = time.time()
        self._database.decommission.empty(token, now)
        self._database.clean((), _nothing)
        if left := [info.name for info in self.storage.list() if not self._stays(info.name)]:
            raise PurgeError(f"{len(left)} file(s) are still in storage", got=", ".join(left[:5]), remedy="try again")
        self._database.decommission.finish(token, now)
        kept = sum(info.name.startswith(_KEPT_FOLDER) for info in self.storage.list())
        left_alone = [name.encode(errors="backslashreplace").decode() for name in links]  # any bytes may be in a name
        return {"files_deleted": len(going), "certificates_kept": kept, "links_left": left_alone, "at": now}

    def _stays(self, name: str) -> bool:
        ours = {str(path) for path in self._database.files()}
        return name == MARKER or name.startswith(_KEPT_FOLDER) or self.storage.path(name) in ours


def _nothing() -> None:
    """Keep no lease: this one was taken for long."""
