"""The guard against re-ingestion: what was forgotten does not come back with new data, unless it is readmitted.

The ledger keeps an HMAC of every forgotten id and group, made with a key of its own (`store/keyring.py`). After a purge
that is all that is left of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.config import DataSettings
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.errors import RequestError, StateError
from hybridmu.store.dataset.key_lookup import RawKey
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, digest_column, stored_name
from hybridmu.store.keyring import Keyring, Uses
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts, reader
from hybridmu.store.ledger.idempotency import remembered_by
from hybridmu.store.ledger.key_uses import guard_uses
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.store.storage.storage import Storage
from hybridmu.types import NO_KEYS, KeyKind, KeySet, NamedKey, RequestState

_OPEN = {*RequestState} - {RequestState.PURGED, RequestState.CANCELLED}


class _Entry(NamedTuple):
    mac: bytes
    returns: bool
    request_id: str
    key_id: str
    listed: bytes


class Guard:
    """Forgotten ids and groups.

    Args:
        engine: From `opening.connect`.
        keyring: Holds the keys that made the HMACs.
    """

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self._write, self._read, self._keyring = engine, reader(engine), keyring

    def any(self) -> bool:
        """Return whether anything is forgotten at all."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.guard.c.mac).limit(1)) is not None

    def lost(self) -> dict[str, int]:
        """Return id → entries of every guard key that made entries and is not available."""
        query = sa.select(t.guard.c.key_id, sa.func.count()).group_by(t.guard.c.key_id)
        with self._read.begin() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(query)}
        have = set(self._keyring.guard_keys()) if found else set()
        return {key_id: entries for key_id, entries in found.items() if key_id not in have}

    def used(self) -> bool:
        """Return whether a guard key was ever used, be it there or lost."""
        return self._uses().before

    def stamp(self) -> Callable[[KeyKind, object], tuple[str, bytes]]:
        """Return what makes the HMACs of one request's keys; the guard key is made on first use.

        Raises:
            StateError: The key was used and is lost, or another one is in its place.
        """
        return self._keyring.stamp(self._uses())

    def seals(self, what: str, data: bytes) -> dict[str, bytes]:
        """Return the HMACs of some bytes by every guard key, as `Keyring.seals`; the key is made on first use.

        Raises:
            StateError: The key was used and is lost.
        """
        self.stamp()
        return self._keyring.seals(what, data)

    def check(self) -> None:
        """Check that every entry can be compared with new data.

        Raises:
            StateError: A key is lost.
        """
        if lost := self.lost():
            raise StateError(
                f"{sum(lost.values())} forgotten id(s) and group(s) can't be recognised: their guard key is lost",
                expected=f"guard key(s) {', '.join(lost)}",
                got=f"key(s) {', '.join(self._keyring.guard_keys()) or 'none'}",
                remedy="restore the key files from their backup (docs/keys.md). If they are gone for good: send the "
                "forget requests again if you have them elsewhere, then give the entries up, which is logged: "
                + "; ".join(f"`hybridmu guard accept-loss {key} --reason TEXT`" for key in lost),
            )

    def blocks(self, kind: KeyKind, values: Sequence[object], returning: str | None = None) -> npt.NDArray[np.bool_]:
        """Return which ids or groups must not come in, bool [n].

        Args:
            kind: Ids or groups.
            values: Raw, in the column's own type; null is never blocked.
            returning: Rows that the correction of this request revoked are let in.
        """
        named = [i for i, value in enumerate(values) if value is not None]
        blocked = np.zeros(len(values), dtype=np.bool_)
        if not named or not self.any():
            return blocked
        entries = self._entries(kind, [values[i] for i in named])
        for position, found in zip(named, entries, strict=True):
            blocked[position] = any(not (row.returns and row.request_id == returning) for row in found)
        return blocked

    def purged(self, kind: KeyKind, values: Sequence[object]) -> npt.NDArray[np.bool_]:
        """Return which ids or groups were forgotten by a request that is PURGED, bool [n]."""
        named = [i for i, value in enumerate(values) if value is not None]
        found = np.zeros(len(values), dtype=np.bool_)
        if not named or not self.any():
            return found
        entries = self._entries(kind, [values[i] for i in named])
        over: set[str] = set()
        with self._read.begin() as connection:
            for part in parts(sorted({row.request_id for rows in entries for row in rows})):
                done = t.requests.c.request_id.in_(part) & (t.requests.c.state == RequestState.PURGED)
                over |= set(connection.scalars(sa.select(t.requests.c.request_id).where(done)))
        for position, rows in zip(named, entries, strict=True):
            found[position] = any(row.request_id in over for row in rows)
        return found

    def covers(self, keys: Sequence[RawKey]) -> list[list[bytes]]:
        """Return the HMACs under which keys without a row are known to be forgotten; an empty list: they are not."""
        found: dict[RawKey, list[bytes]] = {}
        for kind in ("id", "group"):
            mine = [key for key in keys if key.kind == kind]
            if mine and self.any():
                entries = self._entries(kind, [key.value for key in mine])
                found |= {key: [bytes(row.mac) for row in rows] for key, rows in zip(mine, entries, strict=True)}
        return [found.get(key, []) for key in keys]

    def count(self, lake: Lake, revoked: Mapping[int, KeySet]) -> int:
        """Return how many live rows of the lake have a forgotten id or group; more than 0 is a fault.

        Args:
            lake: The tables.
            revoked: Shard → keys of every tombstone: these rows wait for their purge.
        """
        return sum(int((blocked["id"] | blocked["group"]).sum()) for _, blocked in self._live(lake, revoked))

    def covered(self, lake: Lake, revoked: Mapping[int, KeySet]) -> set[NamedKey]:
        """Return the forgotten ids and groups that live rows of the lake have; one pass over all rows.

        Args:
            lake: The tables.
            revoked: As in `count`.
        """
        data = lake.settings.data
        found = set()
        for table, blocked in self._live(lake, revoked):
            for kind, name in _key_columns(data):
                digests = digest_column(table, f"_{kind}")[blocked[kind]]
                values = table[name].filter(pa.array(blocked[kind])).to_pylist()
                for digest, entries in zip(digests, self._entries(kind, values) if values else (), strict=True):
                    key = digest.tobytes()
                    found |= {
                        NamedKey(kind, key, entry.mac, entry.key_id, entry.listed)
                        for entry in entries
                        if not entry.returns
                    }
        return found

    def _live(
        self, lake: Lake, revoked: Mapping[int, KeySet]
    ) -> Iterator[tuple[pa.Table, dict[str, npt.NDArray[np.bool_]]]]:
        """Yield (keys of some live rows, kind → which of them are forgotten)."""
        if not self.any():
            return
        names = _key_columns(lake.settings.data)
        columns = [*(name for _, name in names), "_id", "_group"]
        for split in SPLITS:
            for shard in range(lake.shards):
                for file in lake.files(split, shard):
                    lake.check(file)
                    table = read_parquet(lake.storage, file, columns)
                    ids, groups = digest_column(table, "_id"), digest_column(table, "_group")
                    table = table.filter(pa.array(~carries(ids, groups, revoked.get(shard, NO_KEYS))))
                    blocked: dict[str, npt.NDArray[np.bool_]] = {"group": np.zeros(len(table), dtype=np.bool_)}
                    yield table, blocked | {kind: self.blocks(kind, table[name].to_pylist()) for kind, name in names}

    def readmit(self, keys: Sequence[RawKey], reason: str, caller: str) -> int:
        """Let forgotten ids and groups come in again with later data; logged.

        Args:
            keys: Which; all of them or none.
            reason: Why.
            caller: Who decides.

        Returns:
            How many entries were removed.

        Raises:
            RequestError: One of them is not forgotten.
            StateError: The request that forgot one of them is not finished.
        """
        covered = self.covers(keys)
        if unknown := [key.text for key, macs in zip(keys, covered, strict=True) if not macs]:
            raise RequestError(
                f"{len(unknown)} id(s) or group(s) are not forgotten",
                expected="forgotten ones, whose guard key is available; nothing was changed",
                got=", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else ""),
                remedy="correct the list: what is not forgotten needs no readmission",
            )
        macs = sorted({mac for known in covered for mac in known})
        now = time.time()
        with self._write.begin() as connection:
            rows = [
                row
                for part in parts(macs)
                for row in connection.execute(t.guard.select().where(t.guard.c.mac.in_(part)))
            ]
            unfinished: dict[str, str] = {}
            for part in parts(sorted({row.request_id for row in rows})):
                found = t.requests.c.request_id.in_(part) & t.requests.c.state.in_(_OPEN)
                for request in connection.execute(t.requests.select().where(found)):
                    unfinished[request.request_id] = request.state
            if unfinished:
                name, state = next(iter(unfinished.items()))
                raise StateError(
                    f"{len(unfinished)} request(s) that forgot these keys are not finished",
                    expected="PURGED or CANCELLED",
                    got=f"request {name} is {state}",
                    remedy="wait until it is PURGED (`hybridmu run`), or cancel it while it is RECEIVED",
                )
            for row in rows:
                values = {"mac": row.mac, "request_id": row.request_id, "caller": caller, "reason": reason, "at": now}
                connection.execute(t.readmissions.insert().values(**values))
            for part in parts(macs):
                connection.execute(t.guard.delete().where(t.guard.c.mac.in_(part)))
        return len(rows)

    def accept_loss(self, key_id: str, reason: str, caller: str) -> int:
        """Give up all entries of a lost guard key, and the idempotency keys of its time; logged.

        Args:
            key_id: Of the key.
            reason: Why.
            caller: Who decides.

        Returns:
            How many entries were given up.

        Raises:
            RequestError: The key is available, or made nothing that is remembered.
            StateError: A request that made entries with it is not finished.
        """
        lost = self.lost()
        with self._read.begin() as connection:
            for other in set(remembered_by(connection)) - set(self._keyring.guard_keys()):
                lost.setdefault(other, 0)
        if key_id not in lost:
            raise RequestError(
                f"guard key {key_id} is not a lost one",
                expected=f"one of {', '.join(lost)}" if lost else "a lost key; none is",
                remedy="see `hybridmu keys show`",
            )
        with self._write.begin() as connection:
            mine = t.guard.c.key_id == key_id
            named = sa.select(t.guard.c.request_id).where(mine)
            unfinished = t.requests.c.request_id.in_(named) & t.requests.c.state.in_(_OPEN)
            if name := connection.scalar(sa.select(t.requests.c.request_id).where(unfinished).limit(1)):
                raise StateError(
                    "a request that made entries with this key is not finished: its certificate will name them",
                    expected="PURGED or CANCELLED",
                    got=f"request {name}",
                    remedy="wait until it is PURGED (`hybridmu run`), or cancel it while it is RECEIVED",
                )
            entries = connection.execute(t.guard.delete().where(t.guard.c.key_id == key_id)).rowcount
            connection.execute(t.idempotency.delete().where(t.idempotency.c.key_id == key_id))
            values = {"key_id": key_id, "entries": entries, "caller": caller, "reason": reason, "at": time.time()}
            connection.execute(t.guard_losses.insert().values(**values))
        return entries

    def _entries(self, kind: KeyKind, values: Sequence[object]) -> list[list[_Entry]]:
        """Return the guard's entries of each value, by all guard keys that there are."""
        macs = self._keyring.macs(kind, values)
        if not macs:
            self.check()
        known = self._known({mac for found in macs.values() for mac in found})
        return [
            [known[found[position]] for found in macs.values() if found[position] in known]
            for position in range(len(values))
        ]

    def _uses(self) -> Uses:
        return guard_uses(self._write, Storage(self._keyring.settings.storage_url))

    def _known(self, macs: Collection[bytes]) -> dict[bytes, _Entry]:
        guard = t.guard.c
        query = sa.select(guard.mac, guard.returns, guard.request_id, guard.key_id, guard.listed)
        with self._read.begin() as connection:
            return {
                bytes(row.mac): _Entry(
                    bytes(row.mac), row.returns, row.request_id, row.key_id, bytes(row.listed or b"")
                )
                for part in parts(sorted(macs))
                for row in connection.execute(query.where(t.guard.c.mac.in_(part)))
            }


def _key_columns(data: DataSettings) -> list[tuple[KeyKind, str]]:
    """Return (kind, name of its column in the lake)."""
    names: list[tuple[KeyKind, str]] = [("id", stored_name(data.id))]
    return names + ([("group", stored_name(data.group))] if data.group else [])
