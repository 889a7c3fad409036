"""Which ledger a storage belongs to: each of them names the other, so that two storages can't share one ledger.

A ledger has a random name (`Ledger.system`); the storage that it was claimed with keeps it in a file. A folder may be
moved, mounted elsewhere or restored from a backup: the name goes along with it.
"""

from __future__ import annotations

from typing import Any

from hybridmu.errors import StateError
from hybridmu.store.files.storage import Storage
from hybridmu.store.sql.ledger import Ledger

_FILE = "system"


def claim_both(storage: Storage, ledger: Ledger, identity: dict[str, Any], *, has_rows: bool) -> None:
    """Claim ledger and storage for a configuration and for each other; repeating it does nothing.

    Args:
        storage: The storage.
        ledger: Its ledger.
        identity: What makes storages incompatible.
        has_rows: Whether rows were ingested into the storage; before, a corrected configuration may take over.

    Raises:
        StateError: One of them belongs to another system, or the ledger of a storage with rows is lost.
        StorageMismatchError: They belong to another configuration.
    """  # noqa: DOC501 - a function makes it
    name = ledger.claimed()
    if name is None and has_rows:
        raise StateError(
            f"{storage.url} has rows, but the ledger knows nothing of them: what was forgotten would be trained again",
            expected="the ledger that this storage was trained with",
            got="an empty ledger",
            remedy="correct database_url, or restore the ledger from a backup",
        )
    found = _owner(storage)
    if name is not None and found != name and (found is not None or not has_rows):
        raise _foreign(storage)
    ledger.bind(identity, create=True, replace=not has_rows)
    if found != (name := ledger.system()):
        storage.write(_FILE, name.encode())


def check_owner(storage: Storage, ledger: Ledger) -> None:
    """Check that a storage is the one that its ledger was claimed with; one of an older release does not say.

    Args:
        storage: The storage.
        ledger: A claimed ledger.

    Raises:
        StateError: It belongs to another system.
    """  # noqa: DOC501 - a function makes it
    if _owner(storage) not in {None, ledger.claimed()}:
        raise _foreign(storage)


def _owner(storage: Storage) -> str | None:
    return storage.read(_FILE).decode("ascii", "replace") if storage.exists(_FILE) else None


def _foreign(storage: Storage) -> StateError:
    return StateError(
        f"the ledger belongs to another storage than {storage.url}",
        expected="for every storage_url a database of its own",
        remedy="correct storage_url or database_url; without database_url each storage holds its own ledger",
    )
