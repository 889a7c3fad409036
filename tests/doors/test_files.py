"""Whatever a file of ids or rows holds: it is read line by line as it is, or refused by one of our errors."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import strategies as st

from hybridmu.cli.input_files import read_lines
from hybridmu.cli.input_rows import read_rows
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import HybridMUError
from tests.doors.fuzz import inputs, tried

COLUMNS = (Column("a", "number", 1),)
_LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1))


@inputs(75)
def test_whatever_a_file_holds_only_our_errors_come_out(count: int, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        (tmp_path / "file").write_bytes(data)
        for reader in (read_lines, lambda path: read_rows(path, COLUMNS)):
            with contextlib.suppress(HybridMUError):
                reader(str(tmp_path / "file"))

    tried(count, st.binary(max_size=40), read)


@inputs(75)
def test_what_is_written_is_read(count: int, tmp_path: Path) -> None:
    def read(names: list[str]) -> None:
        (tmp_path / "file").write_text("\n".join(names), encoding="utf-8-sig", newline="")
        assert read_lines(str(tmp_path / "file")) == names

    tried(count, _LINES, read)
