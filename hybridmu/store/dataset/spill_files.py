"""Rows sorted into parts on disk: one append-only Arrow stream per part, opened when its first row comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.store.storage.file_modes import PRIVATE, create
from hybridmu.store.storage.plain_tables import plain


class Streams:
    """A folder of streams.

    Args:
        folder: Made when the first row comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, Any] = {}

    def path(self, part: int) -> Path:
        """Return where a part's stream is."""
        return self._folder / f"{part:05d}.arrow"

    def append(self, table: pa.Table, parts: npt.NDArray[Any]) -> None:
        """Append each row to its part; rows of part −1 are left out."""
        table = plain(table)
        for part in np.unique(parts[parts >= 0]).tolist():
            if part not in self._open:
                self._folder.mkdir(mode=PRIVATE.folder, exist_ok=True)
                create(self.path(part))
                self._open[part] = pa.ipc.new_stream(str(self.path(part)), table.schema)
            self._open[part].write_table(table.filter(pa.array(parts == part)))

    def close(self) -> None:
        """Finish all streams; only then they are read."""
        for writer in self._open.values():
            writer.close()

    def read(self, part: int) -> pa.Table | None:
        """Return the rows of a part; None when it got none."""
        if not self.path(part).exists():
            return None
        with pa.ipc.open_stream(str(self.path(part))) as reader:
            return reader.read_all()
