"""Ownership of storage: a marker, written before anything else, names the ledger that it belongs to.

Coordinators delete what crashes left, and a purge searches everything: neither may happen in a folder that somebody
uses for other things, nor under two ledgers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hybridmu.config import Settings
from hybridmu.errors import CorruptBlobError, StateError, StorageError, StorageMismatchError
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.store.ledger.engine.opening import database_url, has_tables
from hybridmu.store.ledger.ledger_identity import Identity
from hybridmu.store.storage.file_modes import apply_modes
from hybridmu.store.storage.storage import Storage

MARKER = "hybridmu.json"
_PLACES = (MARKER, MANIFEST, "certificates", "journal", "blobs", "lineage")
# Names that nobody else gives to a file: what is left of a system when marker, manifest and ledger are gone.
_OURS = re.compile(
    r"certificates/\d{8,}\.json|journal/(state|seals|[0-9a-f]{32})\.json"
    r"|lineage/shard-\d{5}(/[0-9a-f]{48})?|blobs/shard-\d{5}(/[0-9a-f]{48}\.safetensors)?"
    r"|lake/g\d{4,}(/(train|validation|test)(/shard-\d{5}\.parquet)?|/index(/(id|content)-\d{5}\.parquet)?)?"
)


def take(storage: Storage, settings: Settings) -> None:
    """Mark an empty storage as this program's, before anything else is written or deleted there.

    A local folder and what is in it also get the permission bits that `storage_mode` names, once.

    Args:
        storage: What is to be used.
        settings: Name the ledger, which may lie in it, and who may read what is there.

    Raises:
        StateError: Other files are there, or files of ours without anything that says of which system.
        StorageMismatchError: The ledger that it belongs to is not there.
    """  # noqa: DOC501 - a function makes the StorageMismatchError
    marker = _read(storage)
    if marker is None and not _made_before(storage, settings):
        # A crash in the very first write left nothing but a half of the marker.
        files = [file.name for file in storage.list() if not (file.temporary and file.name.startswith(f"{MARKER}."))]
        others = [*files, *storage.links()]
        if ours := [name for name in others if _OURS.fullmatch(name)]:
            raise StateError(
                f"the storage {storage.url} is of this program, but what says of which system it is was lost",
                expected=f"{MARKER}, {MANIFEST} and the ledger",
                got=f"none of them, but {len(ours)} file(s) of ours: {', '.join(sorted(ours)[:3])}",
                remedy="restore storage and ledger from a backup, or correct storage_url and database_url; keep these "
                "files, they tell a restored ledger what it lacks. Nothing was changed, and nothing is trained again: "
                "what was forgotten would come back",
            )
        if others:
            raise StateError(
                f"the storage {storage.url} holds other files",
                expected="an empty folder, or one that was used by nothing but this program",
                got=f"{len(others)} file(s): {', '.join(sorted(others)[:3])}",
                remedy="name another storage_url, or move them away; nothing was changed",
            )
    if marker is None or marker["mode"] != settings.storage_mode:
        if storage.local is not None and storage.local.is_dir():
            apply_modes(storage.local, storage.modes)
        _write(storage, None if marker is None else marker["system"], settings.storage_mode)
    if marker is not None and marker["system"] is not None and not has_tables(settings.database):
        raise lost_ledger(storage)


def lost_ledger(storage: Storage) -> StorageMismatchError:
    """Return the refusal of a storage whose ledger is not there."""
    return StorageMismatchError(
        f"the storage {storage.url} belongs to another ledger, and there is none at database_url",
        expected="the database with which it was trained",
        got="nothing, or a database without tables",
        remedy="correct database_url, or restore the ledger from a backup; nothing is trained again: what was "
        "forgotten would come back",
    )


def is_claimed(storage: Storage) -> bool:
    """Return whether a storage says that it belongs to a ledger."""
    marker = _read(storage)
    return marker is not None and marker["system"] is not None


def refuse_lost_rows(storage: Storage, identity: Identity) -> None:
    """Refuse a storage without a manifest under a ledger that knows a trained model.

    Raises:
        StorageError: It is so.
    """
    if not storage.exists(MANIFEST) and identity.trained():
        raise StorageError(
            f"{MANIFEST} in {storage.url} is missing",
            expected="the manifest of the tables that the ledger knows",
            remedy="put back its newest copy, or correct storage_url; nothing is trained again: what was forgotten "
            "would come back",
        )


def refuse_links(storage: Storage) -> None:
    """Refuse links in the place of any file or folder of ours; what a link leads to is no part of storage.

    Raises:
        StorageError: There is one.
    """
    storage.refuse_links(*_PLACES, *(name for name in storage.links() if _OURS.fullmatch(name)))


def bind(storage: Storage, identity: Identity, settings: Settings, *, create: bool, replace: bool = False) -> None:
    """Check that storage, ledger and configuration belong together, and with `create` claim what nobody claimed.

    Args:
        storage: Of the system.
        identity: Of the ledger.
        settings: Of the system.
        create: As in `Identity.bind`.
        replace: As in `Identity.bind`.

    Raises:
        StorageMismatchError: Storage belongs to another ledger, or the ledger to another configuration.
        StorageError: A link is in the place of a folder of ours, or the manifest of a trained model is missing.
    """
    storage.refuse_links(*_PLACES)
    marker = _read(storage)
    owner = marker["system"] if marker else None
    if owner is not None and identity.system() != owner:
        raise StorageMismatchError(
            f"the storage {storage.url} belongs to another ledger",
            expected="the database_url with which it was trained",
            got="a ledger of another system, or a new one",
            remedy="use that database_url, or another storage_url",
        )
    identity.bind(settings.identity(), create=create, replace=replace)
    if create:
        claim(storage, identity, settings)
    else:
        refuse_lost_rows(storage, identity)


def claim(storage: Storage, identity: Identity, settings: Settings) -> None:
    """Write down in a storage that names no ledger yet that it belongs to this one, which is bound to it."""
    marker = _read(storage)
    if marker is not None and marker["system"] is None:
        _write(storage, identity.system(), settings.storage_mode)


def _made_before(storage: Storage, settings: Settings) -> bool:
    """Return whether an earlier release used a storage: it left no marker, but tables, or its ledger."""
    if storage.exists(MANIFEST):
        return True
    database = database_url(settings.database)
    if storage.local is None or database.get_backend_name() != "sqlite":
        return False
    # Not opened: closing it again would let go of the locks that this process holds on it.
    path = Path(database.database or "")
    inside = path.is_file() and path.resolve().is_relative_to(storage.local.resolve())
    return inside and path.stat().st_size > 0


def _read(storage: Storage) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read(MARKER))
        return {"system": found["system"], "mode": found["mode"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptBlobError(
            f"{MARKER} in {storage.url} is damaged",
            got=str(error),
            remedy="restore this file from a backup; it says which ledger the storage belongs to",
        ) from None


def _write(storage: Storage, system: str | None, mode: str) -> None:
    storage.write(MARKER, json.dumps({"system": system, "mode": mode}).encode())
