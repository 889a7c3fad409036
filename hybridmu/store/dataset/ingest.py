"""Reading tables into the lake: the first read, and every later generation. The manifest comes last."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import pyarrow as pa

from hybridmu.core.features.encoding_parts import Encode
from hybridmu.core.kernel.table_encoder import Encoder, infer_classes
from hybridmu.core.kernel.training import slice_epochs
from hybridmu.core.targets import TargetEncoder
from hybridmu.errors import DataError
from hybridmu.faults import reach
from hybridmu.store.dataset.declarations import (
    check_declarations,
    features_of,
    fills_of,
    labels_in,
    left_out,
    with_lengths,
)
from hybridmu.store.dataset.derived_table import open_source
from hybridmu.store.dataset.doubtful_features import nearly_unique, read_as_text
from hybridmu.store.dataset.generation import Beat, Draft
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import LAYOUT, MANIFEST, Generation, Manifest, Split, as_given
from hybridmu.store.dataset.source_rows import Batch, Reader, columns_of, no_rows
from hybridmu.store.dataset.source_table import SourceTable, open_copy
from hybridmu.store.dataset.suppression import Suppression
from hybridmu.store.storage.sealed_json import file_seal
from hybridmu.types import Ingestion

# Is given the encoder and some of the rows, before anything is written; raises where these can't be trained on.
Check = Callable[[Encoder, pa.Table], None]
Record = Callable[[Mapping[str, str]], None]  # takes name → seal of files
Warn = Callable[[str], None]  # takes what people should know of a table that is read all the same
Count = Callable[[int], None]  # takes how many rows were read up to now


def unrecorded(_: Mapping[str, str]) -> None:
    """Keep no seal, where there is no ledger."""


def ingest(
    lake: Lake,
    guard: Suppression | None = None,
    record: Record = unrecorded,
    check: Check | None = None,
    warn: Warn = lambda _: None,
    count: Count = lambda _: None,
    encode: Encode | None = None,
) -> Manifest:
    """Read the source tables once and write the lake.

    Args:
        lake: Names the source, the storage and the partition.
        guard: Knows what must not come in; a new storage may have a ledger with a past.
        record: Keeps the seals of all files, before the manifest makes them the lake's.
        check: Sees some of the training rows first.
        warn: Is told what of the training table is left out, or better were.
        count: Is told again and again how many rows were read.
        encode: Makes derived columns; None: this process does, some rows after the other.

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
    train = open_source(data, lake.derivation, data.train, encode)
    tables: list[tuple[Split, SourceTable]] = [("train", train)]
    others: tuple[tuple[Split, str | None], ...] = (("validation", data.validation), ("test", data.test))
    tables += [(split, open_source(data, lake.derivation, url, encode)) for split, url in others if url]
    encoder, inferred = _encoder(lake, train)
    for warning in (*left_out(data, train), *read_as_text(train, encoder)):
        warn(warning)
    reader = Reader(lake, encoder, guard)
    id_type, group_type = "null", "null" if data.group else None
    fitted: list[tuple[Split, SourceTable]] = []
    for split, table in tables:
        fits = reader.fitted(split, table, id_type, group_type)
        fitted.append((split, fits))
        id_type = str(fits.type_of(data.id)) if id_type == "null" else id_type
        group_type = str(fits.type_of(data.group)) if data.group and group_type == "null" else group_type
    batches = [(split, reader.read(table)) for split, table in fitted]
    if some := next(batches[0][1], None):
        first = as_given(some.table.drop_columns(["_id", "_group", "_content"]))
        for warning in nearly_unique(encoder, first):
            warn(warning)
        if check is not None:
            check(encoder, first)
    share = data.first_test_fraction
    counted = _counting(count)
    looked_at = () if some is None else (some,)  # encoded, perhaps for seconds: it is not read again
    sources = [(split, counted(chain(looked_at if not at else (), rows))) for at, (split, rows) in enumerate(batches)]
    rows, seals = write_first(lake, sources, share, least=lake.settings.sisa.min_rows)
    generation = first_generation(lake, rows, reader.skipped, id_type, group_type)
    salt = secrets.token_bytes(32)
    encoders = lake.derivation.digests
    manifest = Manifest(encoder.to_json(), inferred, salt, (generation,), None, share, encoders)
    return found(lake, manifest, seals, record)


def _counting(count: Count) -> Callable[[Iterable[Batch]], Iterator[Batch]]:
    """Return a function that passes batches on, and tells of the rows in all that it passed."""
    rows = 0

    def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
        nonlocal rows
        for batch in batches:
            rows += len(batch.table)
            count(rows)
            yield batch

    return counted


def write_first(
    lake: Lake,
    sources: Sequence[tuple[Split, Iterable[Batch]]],
    test_fraction: float,
    beat: Beat = lambda: None,
    least: int = 0,
) -> tuple[dict[str, tuple[tuple[int, ...], ...]], dict[str, str]]:
    """Write the files of the first generation; no manifest names them yet.

    Args:
        lake: Names the storage and the partition.
        sources: The training table, and perhaps others.
        test_fraction: Share of the people of the training table that are held out as the test table.
        beat: Called again and again meanwhile.
        least: Training rows that a shard has at least, in the mean.

    Returns:
        (split → rows per shard and slice; name → seal of every file).

    Raises:
        DataError: An id occurs twice in one table, or there are too few rows for so many shards.
    """
    with lake.storage.staging() as folder:
        draft = Draft(lake, folder, 0, 1, lake.settings.sisa.slices, test_fraction, beat)
        for number, (split, rows) in enumerate(sources):
            draft.add(split, rows, number)
        counts = draft.finish()
        _refuse_small_shards([sum(shard) for shard in counts["train"]], least)
        lake.storage.delete_folder("lake")  # what an interrupted first read left
        draft.publish()
    return counts, draft.seals


def _refuse_small_shards(rows: Sequence[int], least: int) -> None:
    """Refuse a partition whose sub-models would learn from a handful of rows.

    Raises:
        DataError: Shards have too few rows in the mean; a few people in too many slices are warned about instead.
    """
    all_rows = sum(rows)
    if all_rows >= least * len(rows):
        return
    fitting = all_rows // least
    raise DataError(
        f"{len(rows)} shard(s) of {all_rows // len(rows)} training rows each learn next to nothing",
        expected=f"at least {least} rows per shard in the mean (sisa.min_rows)",
        got=f"{all_rows} training rows, and sisa.shards: {len(rows)}",
        remedy=(
            f"set sisa.shards (and serving.groups) to at most {fitting}"
            if fitting
            else "bring more rows, or hold out fewer (data.test_fraction, data.validation_fraction)"
        )
        + "; nothing was stored",
    )


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
    lake.storage.write(LAYOUT, b"1")
    reach("ingest.manifest")
    lake.storage.write(MANIFEST, data)
    lake.refresh()
    return lake.manifest


def grow(
    lake: Lake, new: Ingestion, guard: Suppression, beat: Beat, ready: Beat
) -> tuple[Generation, dict[str, str]] | None:
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
    reader = Reader(lake, manifest.encoder, guard, new.after_request)
    # Once more: another ingestion may have brought the first group meanwhile.
    source = reader.fitted("new", open_copy(lake.storage, new.source), manifest.id_type, manifest.group_type)
    with lake.storage.staging() as folder:
        draft = Draft(lake, folder, number, manifest.first_slice(number), new.slices, manifest.test_fraction, beat)
        draft.add("train", reader.read(source))
        rows = draft.finish()
        if not any(any(shard) for shards in rows.values() for shard in shards):
            return None
        ready()
        draft.publish()
    data = lake.settings.data
    types = str(source.type_of(data.id)), str(source.type_of(data.group)) if data.group else None
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


def _encoder(lake: Lake, train: SourceTable) -> tuple[Encoder, bool]:
    """Return the encoder, and whether its classes were inferred.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: It does not fit the table, or there are fewer than two classes.
    """  # noqa: DOC501 - a function makes one of them
    data = lake.settings.data
    if not train.rows:
        raise no_rows("train", train.url)
    check_declarations(data, train, lake.derivation)
    names = features_of(data, train, lake.derivation)
    plain = [name for name in names if name not in lake.derivation.names]
    table = with_lengths(data, train, plain)
    fills = {name: fill for name, fill in fills_of(data, table, plain).items() if name not in lake.derivation.sources}
    columns = columns_of(data, table, names, fills, lake.derivation.scales)
    if data.target is not None:
        return TargetEncoder.of(columns, *data.targets), False
    classes = data.classes
    if classes is None:
        classes = infer_classes(sorted(labels_in(train, data.label), key=str))
    if len(classes) < 2:
        raise DataError(
            "there are fewer than two classes",
            expected="a classification task",
            got=f"{list(classes)}",
            remedy="train on a table with rows of two classes, or declare data.classes (numbers: data.target)",
        )
    return Encoder(columns, data.label, classes), data.classes is None
