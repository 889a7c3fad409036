"""Taking in new and corrected rows: checked and copied into storage first, then committed."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pyarrow.parquet as pq

from hybridmu.core.features.encoding_parts import Encode
from hybridmu.errors import AdmissionError, RequestError
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, incoming_file, stored_name
from hybridmu.store.dataset.waiting_rows import Copy, copy_rows, publish_copy, refuse_known
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.idempotency import seal
from hybridmu.store.ledger.ingestions import Ingestions
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.types import ForgetRequest, Ingestion, IngestState, ResolvedKey


class Intake:
    """Accepts ingestions and corrections.

    Args:
        lake: Where they will be added.
        ledger: Tombstones of corrected rows.
        registry: The served version.
        ingestions: New data.
        guard: What must not come in.
        keyring: Makes the guard's HMACs.
    """

    def __init__(
        self, lake: Lake, ledger: Ledger, registry: Registry, ingestions: Ingestions, guard: Guard, keyring: Keyring
    ) -> None:
        self.lake, self.ledger, self.registry = lake, ledger, registry
        self.ingestions, self.guard, self.keyring = ingestions, guard, keyring

    def receive(
        self,
        url: str,
        *,
        slices: int,
        epochs: int | None,
        key: str | None,
        caller: str,
        encode: Encode | None = None,
    ) -> Ingestion:
        """Commit new rows; durable when this returns.

        Args:
            url: File or folder, path or URI.
            slices: How many slices they are cut into.
            epochs: Epochs of each; None: as many as the last slice so far.
            key: The same key of the same caller, with the same bytes and options, returns the same ingestion.
            caller: Who asks.
            encode: Makes derived columns; None: this process does.

        Returns:
            The ingestion, RECEIVED; or SERVED at once, when every row is forgotten.

        Raises:
            RequestError: Slices or epochs are below 1.
            DataError: The rows can't be used, or an id is in the system already; nothing was changed.
            ConflictError: The key came with other rows or options.
        """
        if slices < 1 or (epochs is not None and epochs < 1):
            raise RequestError("the new slices can't be trained", expected="at least one slice and one epoch")
        lake = self.lake
        with lake.storage.staging() as staging:
            copy = copy_rows(lake, url, self.guard, staging, encode)
            repeat = seal(self.guard.seals, caller, key, ["ingest", copy.fingerprint, slices, epochs])
            if earlier := self.ingestions.find_repeat(repeat):
                return self.ingestions.get(earlier)
            refuse_known(lake, copy, self.ingestions.waiting())
            new = self._new(copy, slices, epochs, caller)
            made = publish_copy(lake, copy, new.source) if copy.rows else None
        return self.ingestions.get(self.ingestions.accept(new, made, repeat))

    def correct(
        self,
        url: str,
        *,
        key: str | None,
        caller: str,
        limits: Limits,
        deadline_seconds: float | None,
        encode: Encode | None = None,
    ) -> ForgetRequest:
        """Commit corrected rows: a request that forgets the old ones, and an ingestion that waits for its purge.

        Args:
            url: File or folder with all columns of the corrected rows, by their ids.
            key: Idempotency key.
            caller: Who asks.
            limits: What this caller may ask.
            deadline_seconds: When the old rows must be purged, from now.
            encode: As of `receive`.

        Returns:
            The request.

        Raises:
            RequestError: An id is unknown, or its row can't be corrected; nothing was changed.
            DataError: The rows can't be used.
            ConflictError: The key came with other rows or another deadline.
            AdmissionError: There are too many rows, or the caller's limits are reached.
        """
        lake = self.lake
        with lake.storage.staging() as staging:
            copy = copy_rows(lake, url, self.guard, staging, encode)
            repeat = seal(self.guard.seals, caller, key, ["correct", copy.fingerprint, deadline_seconds])
            if (earlier := self.ledger.find_repeat(repeat)) is not None:
                return earlier
            most = self.lake.settings.admission.keys_per_request
            if copy.rows > most:
                raise AdmissionError("there are too many rows", expected=f"at most {most}", got=str(copy.rows))
            if not copy.rows:
                raise RequestError("all of these ids are forgotten", remedy="`readmit` them first, then `ingest` them")
            keys = self._rows_to_correct(copy)
            new = self._new(copy, 1, None, caller)
            made = publish_copy(lake, copy, new.source)
        return self.ledger.accept(
            keys,
            caller=caller,
            limits=limits,
            repeat=repeat,
            deadline_seconds=deadline_seconds,
            training_rows=lake.manifest.training_rows,
            ingestion=new,
            copy_seal=made,
        )

    def _new(self, copy: Copy, slices: int, epochs: int | None, caller: str) -> Ingestion:
        name, now = f"i-{uuid.uuid4().hex[:16]}", time.time()
        new = Ingestion(
            ingest_id=name,
            state=IngestState.RECEIVED,
            source=incoming_file(name),
            slices=slices,
            epochs=epochs or self.lake.manifest.epochs[-1],
            rows=copy.rows,
            skipped=copy.skipped,
            received_at=now,
            caller=caller,
        )
        if copy.rows:
            return new
        new = replace(new, version=self.registry.served(), applied_at=now, served_at=now)
        return replace(new, state=IngestState.SERVED, reason="the id or group of every row is forgotten")

    def _rows_to_correct(self, copy: Copy) -> list[ResolvedKey]:
        """Return the keys of the old rows.

        Raises:
            RequestError: An id has none, or one outside of the training table.
        """
        lake = self.lake
        ids = pq.read_table(copy.path, columns=[stored_name(lake.settings.data.id)]).column(0).to_pylist()
        keys, unknown = Lookup(lake, self.guard.stamp()).find([("id", value) for value in ids])
        fixed = [split for split in SPLITS if split not in lake.training_splits]
        outside = sum(
            bool(rows)
            for split in fixed
            for shard in sorted({key.shard for key in keys})
            for name in lake.files(split, shard)
            for rows in lake.keys_of(name).by_id.rows([key.key for key in keys if key.shard == shard])
        )
        if unknown or outside or copy.known < copy.rows:
            raise RequestError(
                "some rows can't be corrected; nothing was changed",
                expected="ids that have a row in the training table, and in no other",
                got=f"{len(unknown)} unknown id(s), {outside} row(s) of these ids in other tables",
                remedy="leave them out; rows of new ids come in with `hybridmu ingest`",
            )
        return keys
