"""Arrow types in which the lake keeps feature columns, as its tables say."""

from __future__ import annotations

import pyarrow as pa

from hybridmu.errors import StorageError
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import shard_file, stored_name
from hybridmu.store.dataset.list_packing import unpacked_field
from hybridmu.store.storage.parquet import open_parquet


class FeatureTypes:
    """The types of one lake's features; those of a generation never change, and are read once.

    Args:
        lake: The tables.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._whole: dict[int, frozenset[str]] = {}

    def whole(self) -> frozenset[str]:
        """Return the features that were trained on whole numbers alone, single ones or lists of them.

        Where no table of a generation can be read nothing is known, and none is named.
        """
        every = frozenset(column.name for column in self._lake.manifest.encoder.columns)
        found = [self._of(number, every) for number in range(len(self._lake.manifest.generations))]
        return every.intersection(*found)

    def _of(self, number: int, every: frozenset[str]) -> frozenset[str]:
        """Return which of all features have whole numbers in a generation; its tables have the same types."""
        if number in self._whole:
            return self._whole[number]
        generation = self._lake.manifest.generations[number]
        shards = [shard for shard in range(self._lake.shards) if generation.has_rows("train", shard)]
        for shard in shards:
            try:
                with open_parquet(self._lake.storage, shard_file(number, "train", shard)) as file:
                    schema = file.schema_arrow
            except (StorageError, OSError):  # told to the reader who needs its rows
                continue
            types = {name: unpacked_field(schema.field(stored_name(name))).type for name in every}
            self._whole[number] = frozenset(name for name, type_ in types.items() if _is_whole(type_))
            return self._whole[number]
        return frozenset() if shards else every


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_.value_type if pa.types.is_fixed_size_list(type_) else type_))
