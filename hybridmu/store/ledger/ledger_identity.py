"""Identity of a ledger: the configuration that it belongs to, and its end."""

from __future__ import annotations

import json
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.config import Settings, completed
from hybridmu.errors import StateError, StorageMismatchError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.database_errors import refuse_damaged
from hybridmu.store.ledger.engine.transactions import reader

DECOMMISSIONED = "decommissioned"  # its entry among the ledger's facts


class Identity:
    """The configuration and the system that a ledger belongs to.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def bind(self, identity: dict[str, Any], *, create: bool, replace: bool = False) -> None:
        """Check that this storage belongs to a configuration; the first caller with `create` claims it.

        Args:
            identity: What makes storages incompatible.
            create: Claim a storage that nobody claimed.
            replace: Claim it again: nothing was ingested yet, so a corrected configuration may take over.

        Raises:
            StorageMismatchError: It belongs to another one; the differing keys are listed.
            StateError: Nothing was trained here and `create` is false.
        """
        with (self._write if create else self._read).begin() as connection:
            _claim(connection, identity, create=create, replace=replace)

    def stored(self) -> dict[str, Any] | None:
        """Return the configuration that this ledger belongs to; None when nobody claimed it.

        Raises:
            DatabaseError: It can't be read.
        """
        with self._read.begin() as connection:
            stored = _stored(connection)
        return None if stored is None else _parsed(stored)

    def complete(self, settings: Settings) -> Settings:
        """Return a configuration that says what it left out, as this ledger's system was trained.

        Another optimizer than the ledger's is not completed with parts of that one: it is a mismatch.

        Args:
            settings: The configuration.

        Raises:
            ConfigError: There are more serving groups than sub-models.
        """
        known = self.stored()
        if known is None:
            return settings
        said = settings.optimizer
        if "name" in said.model_fields_set and said.name != known["optimizer"].get("name"):
            known = {**known, "optimizer": {}}
        found = completed(settings, known)
        found.refuse_too_many_groups()
        return found

    def refuse_taken(self) -> None:
        """Check that a storage without rows may take this ledger.

        Raises:
            StateError: The system was decommissioned, or the ledger has versions of another storage.
        """
        with self._read.begin() as connection:
            _refuse_decommissioned(connection)
            _refuse_trained(connection)

    def claimed(self) -> str | None:
        """Return the random name of the system that this ledger belongs to; None when nobody claimed it."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "system"))

    def trained(self) -> bool:
        """Return whether this ledger knows a trained model."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.versions.c.version).limit(1)) is not None

    def system(self) -> str:
        """Return the random name of this system, the same in all its certificates."""
        with self._read.begin() as connection:
            return str(connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "system")))


def _claim(connection: Connection, identity: dict[str, Any], *, create: bool, replace: bool = False) -> None:
    """Check that a ledger belongs to a configuration, or claim it; see `Identity.bind`.

    Raises:
        StorageMismatchError: It belongs to another one.
        StateError: Nothing was trained here and `create` is false, the system was decommissioned, or the ledger was
            trained with another storage.
    """
    _refuse_decommissioned(connection)
    stored = _stored(connection)
    if stored is not None and replace:
        _refuse_trained(connection)
        connection.execute(t.meta.delete().where(t.meta.c.key == "identity"))
        stored = None
    if stored is None:
        if not create:
            raise StateError("nothing was trained here", remedy="run `hybridmu train -c CONFIG` first")
        value = json.dumps(identity, sort_keys=True)
        connection.execute(t.meta.insert().values(key="identity", value=value))
        if connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "system")) is None:
            connection.execute(t.meta.insert().values(key="system", value=uuid.uuid4().hex))
        return
    differing = _differences(_parsed(stored), json.loads(json.dumps(identity)))
    if differing:
        raise StorageMismatchError(
            "this storage belongs to another configuration",
            expected="the settings it was trained with",
            got="; ".join(differing),
            remedy="use that configuration, or another storage_url",
        )


def _stored(connection: Connection) -> str | None:
    return connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "identity"))


def _parsed(stored: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(stored)
    except ValueError as error:
        refuse_damaged(str(error))
    return found


def decommissioned(connection: Connection) -> dict[str, Any] | None:
    """Return when, why and by whom the system was decommissioned; None while it lives."""
    raw = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == DECOMMISSIONED))
    found: dict[str, Any] | None = json.loads(raw) if raw else None
    return found


def _refuse_decommissioned(connection: Connection) -> None:
    if over := connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == DECOMMISSIONED)):
        raise StateError(
            "this system was decommissioned",
            got=json.loads(over)["reason"],
            remedy="train a new one with another storage_url and database",
        )


def _refuse_trained(connection: Connection) -> None:
    """Refuse that a storage without rows takes over a ledger that another one was trained with.

    Raises:
        StateError: The ledger has versions.
    """
    if connection.scalar(sa.select(t.versions.c.version).limit(1)) is not None:
        raise StateError(
            "the ledger belongs to another storage, or its storage has lost its rows",
            expected="for every storage_url a database of its own",
            got="a ledger with versions, and a storage without rows",
            remedy="correct storage_url or database_url, or restore the storage from a backup",
        )


def _differences(stored: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*stored, *ours}):
        a, b = stored.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: storage has {a!r}, the configuration {b!r}")
    return found
