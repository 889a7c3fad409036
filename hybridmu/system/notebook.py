"""A system from a frame of rows in one call, for notebooks: `hybridmu.fit`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hybridmu.config import Settings
from hybridmu.errors import DataError, RequestError, StateError
from hybridmu.system.arguments import AnyName, AnyNames, Executor, Source, checked
from hybridmu.system.frame_kinds import is_frame, is_pandas, package_of
from hybridmu.system.system import System

_ID = "id"


@checked
def fit(
    rows: Any,
    *,
    path: Source,
    label: AnyName = None,
    target: AnyNames = None,
    id: AnyName = None,
    group: AnyName = None,
    task: Any = None,
    executor: Executor = "auto",
    **sections: Any,
) -> System:
    """Train a system on the rows of a frame, without a configuration file.

    The rows go into the system's storage alone: no other copy is left, so that a purge reaches all there is. A
    configuration for `hybridmu.connect` and the command line is written beside the storage.

    Args:
        rows: A DataFrame of pandas or polars, an Arrow table, a dataset of Hugging Face's `datasets`, or what else
            speaks Arrow.
        path: Folder for the system, which must not exist; `PATH.yaml` beside it will be the configuration.
        label: Column of the classes to learn, `label` by default; or
        target: column of the numbers to learn; of several at once, their columns.
        id: Column that tells rows apart. By default `id`; where there is none, rows are numbered from 0 in one of that
            name.
        group: Column of the people that rows belong to.
        task: Name of a task, or a mapping of its name and options; see docs/own-data.md and docs/closed-form.md.
        executor: As of `hybridmu.connect`.
        sections: Other sections of the configuration, such as `sisa={"shards": 4}`.

    Returns:
        The trained system; use it as a context manager to release what it starts.

    Raises:
        RequestError: `rows` is no frame.
        StateError: There is something at `path` already.
        DataError: A column is missing, or holds what can't be learned.
        ConfigError: A section is wrong.

    Example:
        >>> import hybridmu, pandas  # doctest: +SKIP
        >>> frame = pandas.read_csv("people.csv")  # doctest: +SKIP
        >>> system = hybridmu.fit(frame, label="churned", group="person", task="lda", path="churn")  # doctest: +SKIP
        >>> system.forget(groups=["alice"], wait=True)["state"]  # doctest: +SKIP
        'SERVED'
    """
    table = table_of(rows)
    if id is None and _ID not in table.column_names:
        table = table.append_column(_ID, pa.array(range(table.num_rows), pa.int64()))
    storage = Path(path).expanduser().absolute()
    configuration, source, keys = (storage.with_name(storage.name + end) for end in (".yaml", ".rows.parquet", "-keys"))
    for place in (storage, configuration, source, keys):
        if place.exists():
            raise StateError(
                f"{place} exists",
                expected="a new path",
                remedy=f"hybridmu.connect({str(configuration)!r}) opens a system that is there",
            )
    raw = _raw(sections, {"label": label, "target": target, "id": id or _ID, "group": group}, task)
    raw["data"] = {**raw["data"], "train": str(source)}
    settings = Settings.parse({**raw, "storage_url": str(storage)})
    if settings.storage_url != str(storage):
        raise RequestError(
            "path is not where the system would be",
            expected=str(storage),
            got=settings.storage_url,
            remedy="unset HYBRIDMU_STORAGE_URL, which comes before it",
        )
    for name in (settings.data.id, settings.data.group, *settings.data.outcomes):
        if name is not None and name not in table.column_names:
            raise DataError(f"the frame has no column {name!r}", expected=f"one of {table.column_names[:20]}")
    said = yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    storage.parent.mkdir(parents=True, exist_ok=True)
    system = System(settings, executor)
    try:
        with _new(source) as file:
            pq.write_table(table, file)
        try:
            with _new(configuration) as file:
                file.write(said.encode())
            system.train()
        finally:
            source.unlink()  # the system has its own tables
    except BaseException:
        system.close()
        for place in (source, configuration):
            place.unlink(missing_ok=True)
        for folder in (storage, keys):  # they were made here: no row of a system that is none stays behind
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return system


def _raw(sections: dict[str, Any], columns: dict[str, Any], task: Any) -> dict[str, Any]:
    """Return the configuration without its paths.

    Raises:
        RequestError: A section is none.
    """
    data = sections.get("data", {})
    if not isinstance(data, dict):
        raise RequestError("data is not a mapping", expected="sections of a configuration", got=type(data).__name__)
    if twice := sorted(data.keys() & {*columns, "name", "train"}):
        raise RequestError(f"data.{twice[0]} is said twice", remedy="rows and columns are arguments of `fit`")
    found = {**sections, "data": {**{name: value for name, value in columns.items() if value is not None}, **data}}
    if task is not None:
        found["task"] = {"name": task} if isinstance(task, str) else task
    return found


def table_of(rows: Any) -> pa.Table:
    """Return a frame's rows as Arrow has them.

    Raises:
        RequestError: It is no frame.
        DataError: Its cells can't be read.
    """
    if package_of(rows) == "datasets":
        rows = _dataset(rows)
    if not is_frame(rows):
        raise RequestError(
            "rows is not a frame",
            expected="a DataFrame of pandas or polars, an Arrow table, or a dataset of datasets",
            got=type(rows).__name__,
        )
    if is_pandas(rows) and not rows.columns.is_unique:
        raise DataError("two columns of the frame have one name", expected="every name once", remedy="drop one of them")
    try:
        if is_pandas(rows):
            return pa.Table.from_pandas(rows, preserve_index=False)
        if package_of(rows) == "polars":  # by the C stream its categories are of a type that Arrow can't cast
            return rows.to_arrow()
        if isinstance(rows, pa.RecordBatch):
            return pa.Table.from_batches([rows])
        return rows.read_all() if isinstance(rows, pa.RecordBatchReader) else pa.table(rows)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:  # their words quote the values
        raise DataError(
            "the frame can't be read",
            expected="columns of numbers, truth values, texts or lists of numbers",
            got=type(error).__name__,
            remedy="bring the cells of each column to one type",
        ) from None


def _dataset(rows: Any) -> Any:
    """Return the Arrow table of a dataset of Hugging Face's `datasets`; what is none, as it is."""
    try:
        return rows.with_format("arrow")[:]
    except Exception:  # a dictionary of splits, or a dataset that is read as it comes
        return None


def _new(path: Path) -> BinaryIO:
    """Return a new file, opened for writing, which its owner alone may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
