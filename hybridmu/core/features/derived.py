"""Derived columns: features of single values, made at the doors and stored beside the row as columns like others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from hybridmu.config.feature_settings import EncoderSettings, FeatureSettings
from hybridmu.core.features import image_values, text_values
from hybridmu.core.features.encoded_values import Derived, Where, encoded
from hybridmu.core.features.value_encoders import LEVELS, make_encoder
from hybridmu.core.kernel.table_encoder import Column, Scalar
from hybridmu.errors import ConfigError, DataError, HybridMUError, StateError


class Derivation:
    """All derived columns of a system.

    Args:
        columns: In the order of the schema; after all others.
    """

    def __init__(self, columns: Sequence[Derived] = ()) -> None:
        self._columns = {column.name: column for column in columns}

    @classmethod
    def of(cls, settings: FeatureSettings, fills: Mapping[str, Scalar]) -> Derivation:
        """Make the derived columns of a configuration.

        Args:
            settings: Columns and their encoders.
            fills: Column → stand-in for null.

        Returns:
            Without their encoders, which are made when a value is to be encoded.

        Raises:
            ConfigError: A fill is no text, or stands for a picture, or two encoders have one name.
        """
        every = fills.get("*")
        found: list[tuple[str, Any, EncoderSettings, str | None]] = []
        for source, encoders in settings.text.items():
            fill = fills.get(source, every if isinstance(every, str) else None)
            if fill is not None and not isinstance(fill, str):
                raise ConfigError("data.fills does not fit a column of text", expected=f"{source}: a text")
            found += [(source, text_values, each, fill) for each in encoders]
        for source, encoders in settings.image.items():
            if source in fills:
                raise ConfigError("data.fills has no picture to stand in for others", got=f"data.fills: {source}")
            found += [(source, image_values, each, None) for each in encoders]
        names = [f"{source}:{each.name.rpartition(':')[2]}" for source, _, each, _ in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two encoders make features named {twice[0]}", remedy="name the classes differently")
        return cls([
            Derived(source, name, values, partial(make_encoder, values.KIND, each.name, each.options), fill)
            for name, (source, values, each, fill) in zip(names, found, strict=True)
        ])

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._columns)

    def __iter__(self) -> Iterator[Derived]:
        """Return an iterator over the derived columns."""
        return iter(self._columns.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the derived columns."""
        return tuple(self._columns)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the columns that they are made of, each once."""
        return tuple(dict.fromkeys(column.source for column in self))

    @property
    def scales(self) -> dict[str, float]:
        """Return the factor of each in the schema, by which its features are numbers from −1 to 1."""
        return dict.fromkeys(self.names, 1 / LEVELS)

    @property
    def digests(self) -> dict[str, str]:
        """Return the digest of the encoder of each, which takes reading its files."""
        return {column.name: column.digest for column in self}

    def others(self, known: Mapping[str, str]) -> tuple[str, ...]:
        """Return the columns whose encoder is another one than stored rows had, or can't be had.

        Args:
            known: Derived column → digest of the encoder that these rows had.
        """

        def is_other(column: Derived) -> bool:
            try:
                return column.digest != known.get(column.name)
            except (HybridMUError, OSError):
                return True

        return tuple(column.name for column in self if is_other(column))

    def known_as(self, known: Mapping[str, str]) -> Derivation:
        """Return these derived columns, if new values get the features that stored ones have.

        Args:
            known: As for `others`.

        Raises:
            StateError: An encoder is another one now.
            ConfigError: One can't be had.
            MissingExtraError: The same, for want of a package.
        """
        for column in self:
            _ = column.digest  # why it can't be had is said by its maker
        if others := self.others(known):
            raise StateError(
                f"the encoder of {others[0]!r} is not the one that the stored rows were made with",
                expected="the same options and files, code, and versions of the packages that its code imports",
                remedy="put them back, or train another model, with a storage_url of its own",
            )
        return self

    def asked(self, schema: Sequence[Column]) -> tuple[Column, ...]:
        """Return the columns that a row to be predicted has: a source in place of what is made of it.

        Args:
            schema: The feature columns of the system.
        """
        sources = {column.source: Column(column.source, column.values.KIND, 1, (), column.fill) for column in self}
        return (*(column for column in schema if column.name not in self._columns), *sources.values())

    def kept(self, table: pa.Table) -> pa.Table:
        """Return a table whose sources are as the lake keeps them: pictures in base64.

        Args:
            table: Need not have them all.
        """
        for column in {column.source: column for column in self}.values():
            if (at := table.schema.get_field_index(column.source)) >= 0:
                values = column.values.kept(column.source, table.column(at))
                table = table.set_column(at, column.source, values)
        return table

    def extended(self, table: pa.Table, names: Sequence[str] | None = None, where: Where | None = None) -> pa.Table:
        """Return a table with derived columns.

        Args:
            table: Has their sources.
            names: Which ones; None: all.
            where: Says what an error calls a row, by its place; None: rows are not named.

        Returns:
            The table, and these columns behind its own.

        Raises:
            DataError: A value is null without a fill, can't be read, or can't be encoded.
        """
        for name in self.names if names is None else names:
            column = self._columns[name]
            values = table.column(column.source)
            column.values.check_type(column.source, values.type)
            made = encoded(column, column.values.cells(values), where)
            flat = pa.array(made.reshape(-1), pa.int8())
            table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, column.encoder.width))
        return table

    def rows(self, rows: Sequence[Any], asked: Sequence[Column]) -> Sequence[Any]:
        """Return rows given as column → value, with derived columns.

        Args:
            rows: What is no mapping stays as it is, for others to refuse.
            asked: As from `asked`.

        Returns:
            Other rows; those that were given stay as they are.

        Raises:
            DataError: A row lacks a column that is asked, or a value can't be read or encoded.
        """
        if not self or not all(isinstance(row, dict) for row in rows):
            return rows
        names = [column.name for column in asked]
        for row in rows:
            if lacking := next((name for name in names if name not in row), None):
                raise DataError(f"column {lacking!r} is missing", expected=", ".join(names))
        made = [dict(row) for row in rows]
        for column in self:
            found = encoded(column, [row[column.source] for row in rows])
            for row, features in zip(made, found, strict=True):
                row[column.name] = features
        return made
