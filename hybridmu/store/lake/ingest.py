"""Reading tables into the lake: the first read, and every later generation. The manifest comes last."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from hybridmu.config import DataSettings
from hybridmu.core.encode import Encoder, infer_classes, label_set
from hybridmu.core.training import slice_epochs
from hybridmu.errors import DataError
from hybridmu.faults import reach
from hybridmu.store.lake.declarations import check_declarations, features_of
from hybridmu.store.lake.generation import Beat, Draft
from hybridmu.store.lake.lake import Lake
from hybridmu.store.lake.layout import LAYOUT, MANIFEST, Generation, Manifest, Split, as_given
from hybridmu.store.lake.source import Batch, Reader, columns_of, no_rows
from hybridmu.store.lake.table import SourceTable, open_copy, open_table
from hybridmu.store.sql.guard import Guard
from hybridmu.types import Ingestion

# Is given the encoder and some of the rows, before anything is written; raises where these can't be trained on.
Check = Callable[[Encoder, pa.Table], None]


def ingest(lake: Lake, guard: Guard | None = None, check: Check | None = None) -> Manifest:
    """Read the source tables once and write the lake.

    Args:
        lake: Names the source, the storage and the partition.
        guard: Knows what must not come in; a new storage may have a ledger with a past.
        check: Sees some of the training rows first.

    Returns:
        The manifest; an existing lake is returned unchanged.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: Duplicate ids, wrong columns or types, nulls without fill, NaN, labels outside the classes.
        StateError: A guard key is lost.
    """
    if lake.storage.exists(MANIFEST):
        return lake.manifest
    if guard is not None:
        guard.check()
    data = lake.settings.data
    train = open_table(data.train)
    tables: list[tuple[Split, SourceTable]] = [("train", train)]
    tables += [("validation", open_table(data.validation))] if data.validation else []
    tables += [("test", open_table(data.test))] if data.test else []
    encoder, inferred = _encoder(lake, train)
    reader = Reader(lake, encoder, guard)
    id_type, group_type = "null", "null" if data.group else None
    fitted: list[tuple[Split, SourceTable]] = []
    for split, table in tables:
        fits = reader.fitted(split, table, id_type, group_type)
        fitted.append((split, fits))
        id_type = str(fits.type_of(data.id)) if id_type == "null" else id_type
        group_type = str(fits.type_of(data.group)) if data.group and group_type == "null" else group_type
    if check is not None and (some := next(Reader(lake, encoder, guard).read(fitted[0][1]), None)):
        check(encoder, as_given(some.table.drop_columns(["_id", "_group", "_content"])))
    rows = write_first(lake, [(split, reader.read(table)) for split, table in fitted])
    generation = first_generation(lake, rows, reader.skipped, id_type, group_type)
    return found(lake, Manifest(encoder, inferred, secrets.token_bytes(32), (generation,)))


def write_first(
    lake: Lake, sources: Sequence[tuple[Split, Iterable[Batch]]], beat: Beat = lambda: None
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Write the files of the first generation; no manifest names them yet.

    Args:
        lake: Names the storage and the partition.
        sources: The training table, and perhaps others.
        beat: Called again and again meanwhile.

    Returns:
        Split → rows per shard and slice.

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
    return counts


def first_generation(
    lake: Lake, rows: dict[str, tuple[tuple[int, ...], ...]], skipped: int, id_type: str, group_type: str | None
) -> Generation:
    """Return generation 0, whose slices train as many epochs as the schedule gives them."""
    sisa = lake.settings.sisa
    return Generation(sisa.slices, slice_epochs(sisa.epochs, sisa.slices), rows, skipped, id_type, group_type)


def found(lake: Lake, manifest: Manifest) -> Manifest:
    """Return the manifest of a new lake after writing it: from here on its rows are there."""
    lake.storage.write(LAYOUT, b"1")
    reach("ingest.manifest")
    lake.storage.write(MANIFEST, manifest.to_bytes())
    return lake.manifest


def grow(lake: Lake, new: Ingestion, guard: Guard, beat: Beat, ready: Beat) -> Generation | None:
    """Write the files of the next generation; the manifest does not name them yet.

    Args:
        lake: As all earlier generations left it.
        new: Names the checked copy of the rows, and the slices and epochs.
        guard: Knows what was forgotten since the copy was made.
        beat: Called again and again meanwhile.
        ready: Called once, before anything is written to storage.

    Returns:
        The generation; None when every row is forgotten by now.

    Raises:
        DataError: Rows of the same ids came in meanwhile.
    """
    manifest = lake.manifest
    number = len(manifest.generations)
    reader = Reader(lake, manifest.encoder, guard, new.after_request)
    # Once more: another ingestion may have brought the first group meanwhile.
    source = reader.fitted("new", open_copy(lake.storage, new.source), manifest.id_type, manifest.group_type)
    with lake.storage.staging() as folder:
        draft = Draft(lake, folder, number, manifest.first_slice(number), new.slices, beat)
        draft.add("train", reader.read(source))
        rows = draft.finish()
        if not any(any(shard) for shards in rows.values() for shard in shards):
            return None
        ready()
        draft.publish()
    data = lake.settings.data
    types = str(source.type_of(data.id)), str(source.type_of(data.group)) if data.group else None
    skipped = new.skipped + reader.skipped
    return Generation(new.slices, (new.epochs,) * new.slices, rows, skipped, *types, new.ingest_id, new.after_request)


def admit(lake: Lake, generation: Generation) -> None:
    """Name the next generation in the manifest; from here on its rows are in the lake."""
    manifest = replace(lake.manifest, generations=(*lake.manifest.generations, generation))
    reach("ingest.manifest")
    lake.storage.write(MANIFEST, manifest.to_bytes())
    lake.refresh()


def _encoder(lake: Lake, train: SourceTable) -> tuple[Encoder, bool]:
    """Return the encoder, and whether its classes were inferred.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: It does not fit the table, or there are fewer than two classes.
    """  # noqa: DOC501 - a function makes one of them
    data = lake.settings.data
    if not train.rows:
        raise no_rows("train", train.url)
    check_declarations(data, train)
    names = features_of(data, train)
    table = train.with_types({name: pa.list_(kind, length) for name, kind, length in _lengths(data, train, names)})
    columns = columns_of(data, table, names)
    classes = data.classes
    if classes is None:
        seen: set[int | str] = set()
        for batch in train.batches([data.label]):
            seen |= label_set(batch.column(0), data.label)
        classes = infer_classes(sorted(seen, key=str))
    if len(classes) < 2:
        raise DataError(
            "there are fewer than two classes",
            expected="a classification task",
            got=f"{list(classes)}",
            remedy="train on a table with rows of two classes, or declare data.classes",
        )
    return Encoder(columns, data.label, classes), data.classes is None


def _lengths(data: DataSettings, train: SourceTable, names: Sequence[str]) -> Iterator[tuple[str, pa.DataType, int]]:
    """Yield (feature, type of its numbers, length) of each whose lists have no length of their own.

    Raises:
        DataError: The declared length is not that of the type.
    """
    for name in names:
        type_ = train.type_of(name)
        declared = data.lists.get(name)
        if pa.types.is_fixed_size_list(type_) and declared not in {None, type_.list_size}:
            expected = f"{type_.list_size}, the length of its type"
            raise DataError(f"data.lists does not fit column {name!r}", expected=expected, got=str(declared))
        if pa.types.is_list(type_):
            first = train.first_value(name) if declared is None else None
            length = len(first) if first is not None else declared or 0
            if length:
                yield name, type_.value_type, length
