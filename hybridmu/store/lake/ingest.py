"""Reading tables into the lake: the first read, and every later generation. The manifest comes last."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow.dataset as pads

from hybridmu.core.encode import Encoder, infer_classes, label_set
from hybridmu.core.training import slice_epochs
from hybridmu.errors import DataError
from hybridmu.faults import reach
from hybridmu.store.files.sealed import file_seal
from hybridmu.store.lake.generation import Beat, Draft
from hybridmu.store.lake.lake import Lake
from hybridmu.store.lake.layout import MANIFEST, Generation, Manifest, Split
from hybridmu.store.lake.source import Batch, Reader, batches, columns_of, key_type, open_source, open_stored
from hybridmu.store.sql.guard import Guard
from hybridmu.types import Ingestion

Record = Callable[[Mapping[str, str]], None]  # takes name → seal of files


def unrecorded(_: Mapping[str, str]) -> None:
    """Keep no seal, where there is no ledger."""


def ingest(lake: Lake, guard: Guard | None = None, record: Record = unrecorded) -> Manifest:
    """Read the source tables once and write the lake.

    Args:
        lake: Names the source, the storage and the partition.
        guard: Knows what must not come in; a new storage may have a ledger with a past.
        record: Keeps the seals of all files, before the manifest makes them the lake's.

    Returns:
        The manifest; an existing lake is returned unchanged.

    Raises:
        DataError: Duplicate ids, wrong columns or types, nulls without fill, NaN, labels outside the classes.
        StateError: A guard key is lost.
    """
    if lake.storage.exists(MANIFEST):
        return lake.manifest
    if guard is not None:
        guard.check()
    data = lake.settings.data
    train = open_source(data.train)
    tables: list[tuple[Split, pads.Dataset]] = [("train", train)]
    tables += [("validation", open_source(data.validation))] if data.validation else []
    tables += [("test", open_source(data.test))] if data.test else []
    encoder, inferred = _encoder(lake, train)
    id_type, group_type = key_type(train, data.id), key_type(train, data.group) if data.group else None
    reader = Reader(lake, encoder, guard)
    for split, table in tables:
        reader.check(split, table, id_type, group_type)
    rows, seals = write_first(lake, [(split, reader.read(table)) for split, table in tables])
    generation = first_generation(lake, rows, reader.skipped, id_type, group_type)
    return found(lake, Manifest(encoder, inferred, secrets.token_bytes(32), (generation,)), seals, record)


def write_first(
    lake: Lake, sources: Sequence[tuple[Split, Iterable[Batch]]], beat: Beat = lambda: None
) -> tuple[dict[str, tuple[tuple[int, ...], ...]], dict[str, str]]:
    """Write the files of the first generation; no manifest names them yet.

    Args:
        lake: Names the storage and the partition.
        sources: The training table, and perhaps others.
        beat: Called again and again meanwhile.

    Returns:
        (split → rows per shard and slice; name → seal of every file).

    Raises:
        DataError: An id occurs twice in one table.
    """
    with lake.storage.staging() as folder:
        draft = Draft(lake, folder, 0, 1, lake.settings.sisa.slices, beat)
        for number, (split, rows) in enumerate(sources):
            draft.add(split, rows, number)
        counts = draft.finish()
        lake.storage.delete_folder("lake")  # what an interrupted first read left
        draft.publish()
    return counts, draft.seals


def first_generation(
    lake: Lake, rows: dict[str, tuple[tuple[int, ...], ...]], skipped: int, id_type: str, group_type: str | None
) -> Generation:
    """Return generation 0, whose slices train as many epochs as the schedule gives them."""
    sisa = lake.settings.sisa
    return Generation(sisa.slices, slice_epochs(sisa.epochs, sisa.slices), rows, skipped, id_type, group_type)


def found(lake: Lake, manifest: Manifest, seals: Mapping[str, str], record: Record) -> Manifest:
    """Write the manifest of a new lake: from here on its rows are there.

    Args:
        lake: Its files are written.
        manifest: Names them.
        seals: Of its files.
        record: As in `ingest`.

    Returns:
        The manifest.
    """
    data = manifest.to_bytes()
    record({**seals, MANIFEST: file_seal(data)})
    reach("ingest.manifest")
    lake.storage.write(MANIFEST, data)
    lake.refresh()
    return lake.manifest


def grow(lake: Lake, new: Ingestion, guard: Guard, beat: Beat, ready: Beat) -> tuple[Generation, dict[str, str]] | None:
    """Write the files of the next generation; the manifest does not name them yet.

    Args:
        lake: As all earlier generations left it.
        new: Names the checked copy of the rows, and the slices and epochs.
        guard: Knows what was forgotten since the copy was made.
        beat: Called again and again meanwhile.
        ready: Called once, before anything is written to storage.

    Returns:
        The generation, and name → seal of its files; None when every row is forgotten by now.

    Raises:
        DataError: Rows of the same ids came in meanwhile.
    """
    manifest = lake.manifest
    number = len(manifest.generations)
    source = open_stored(lake.storage, new.source)
    reader = Reader(lake, manifest.encoder, guard, new.after_request)
    with lake.storage.staging() as folder:
        draft = Draft(lake, folder, number, manifest.first_slice(number), new.slices, beat)
        draft.add("train", reader.read(source))
        rows = draft.finish()
        if not any(any(shard) for shards in rows.values() for shard in shards):
            return None
        ready()
        draft.publish()
    data = lake.settings.data
    types = key_type(source, data.id), key_type(source, data.group) if data.group else None
    skipped = new.skipped + reader.skipped
    epochs = (new.epochs,) * new.slices
    return Generation(new.slices, epochs, rows, skipped, *types, new.ingest_id, new.after_request), draft.seals


def with_generation(lake: Lake, generation: Generation) -> bytes:
    """Return the manifest that names one more generation, as it will be written."""
    return replace(lake.manifest, generations=(*lake.manifest.generations, generation)).to_bytes()


def admit(lake: Lake, manifest: bytes) -> None:
    """Write the manifest that names the next generation; from here on its rows are in the lake."""
    reach("ingest.manifest")
    lake.storage.write(MANIFEST, manifest)
    lake.refresh()


def _encoder(lake: Lake, train: pads.Dataset) -> tuple[Encoder, bool]:
    """Return the encoder, and whether its classes were inferred.

    Raises:
        DataError: A column is missing, or there are fewer than two classes.
    """
    data = lake.settings.data
    for role, name in (("id", data.id), ("group", data.group), ("label", data.label)):
        if name is not None and name not in train.schema.names:
            have = ", ".join(train.schema.names)
            raise DataError(f"data.{role} names a column that is not in the table", expected=have, got=name)
    columns = columns_of(data, train)
    classes = data.classes
    if classes is None:
        seen: set[int | str] = set()
        for table in batches(train, [data.label]):
            seen |= label_set(table.column(0))
        classes = infer_classes(sorted(seen, key=str))
    if len(classes) < 2:
        raise DataError("there are fewer than two classes", expected="a classification task", got=f"{list(classes)}")
    return Encoder(columns, data.label, classes), data.classes is None
