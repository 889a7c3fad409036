"""Whatever a file of ids or rows holds: it is read line by line as it is, or refused by one of our errors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st

from hybridmu.cli.input_files import read_lines
from hybridmu.cli.row_files import read_keys, read_rows
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import HybridMUError
from tests.doors.fuzz import inputs, tried
from tests.support import flipped

COLUMNS = (Column("a", "number", 1),)
_LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1))


@inputs(75)
def test_whatever_a_file_holds_only_our_errors_come_out(count: int, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        for name in ("file", "file.csv", "file.jsonl"):
            (tmp_path / name).write_bytes(data)
            for reader in (read_lines, lambda path: read_rows(path, COLUMNS), lambda path: read_keys(path, "a")):
                with contextlib.suppress(HybridMUError):
                    reader(str(tmp_path / name))

    rows = st.lists(st.sampled_from(["a", ",", '"', "\n", "\r\n", "1", "-0", "007", "NA", "\ufeff", "{", "}"]))
    tried(count, st.binary(max_size=40) | rows.map(lambda parts: "".join(["a,b\n", *parts]).encode()), read)


@inputs(75)
def test_a_damaged_arrow_file_is_read_or_refused(count: int, tmp_path: Path) -> None:
    """Arrow keeps no checksum of its values; whatever their bytes say, no more than these values are others."""
    file, made = tmp_path / "rows.arrow", pa.table({"a": [1.0, 2.0], "b": ["x", "yy"]})
    with pa.ipc.new_file(file, made.schema) as writer:
        writer.write_table(made)
    whole = file.read_bytes()

    def read(bit: int) -> None:
        file.write_bytes(flipped(whole, bit))
        with contextlib.suppress(HybridMUError):
            assert len(read_rows(str(file), (*COLUMNS, Column("b", "hash", 4)))) <= 2

    tried(count, st.integers(0, 8 * len(whole) - 1), read)


@inputs(75)
def test_what_is_written_is_read(count: int, tmp_path: Path) -> None:
    def read(names: list[str]) -> None:
        (tmp_path / "file").write_text("\n".join(names), encoding="utf-8-sig", newline="")
        assert read_lines(str(tmp_path / "file")) == names

    tried(count, _LINES, read)
