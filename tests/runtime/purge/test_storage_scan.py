"""Searching storage: a file that names a purged row is found, whatever it is and whoever put it there."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import sqlite3
import tarfile
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import orc

from hybridmu.core.kernel.partition import digest
from hybridmu.errors import PurgeError
from hybridmu.runtime.purge.storage_scan import Look, meant
from hybridmu.runtime.purge.table_rewrite import outdated, rewrite_tables
from hybridmu.store.storage.parquet import publish_parquet, read_parquet, writing
from hybridmu.store.storage.parquet_pages import ParquetParts
from tests.support import open_lake

NAME = "customer-4711"
NUMBER = 17


@pytest.fixture
def lake(tmp_path, make_table):
    make_table(40)
    return open_lake(tmp_path, sisa={"shards": 2})


@pytest.fixture
def needles(lake):
    """What a survey names: the digest of an integer id, a telling id as text, and the digest of that."""
    return {digest(lake.key, "id", NUMBER), NAME.encode(), digest(lake.key, "id", NAME)}


def found(lake, needles, **options) -> set[str]:
    return set(Look(lake, needles, **options).run()[0])


def put(lake, name: str, data: bytes) -> None:
    lake.storage.write(name, data)


def table(lake, name: str, columns) -> None:
    with lake.storage.staging() as folder:
        pq.write_table(pa.table(columns), folder / "t")
        lake.storage.publish(folder / "t", name)


def test_our_own_files_do_not_name_a_row(lake, needles):
    held, looked = Look(lake, needles).run()
    assert held == {}
    assert looked["needles"] == 3
    assert looked["files"] >= 1, "the manifest"
    assert looked["bytes"] > 0


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("notes.txt", b"please call customer-4711 back"),
        ("export.json", json.dumps({"id": NAME}).encode()),
        ("weights.bin", b"\0\1\2" + NAME.encode() + b"\xff"),
        (f"plots/{NAME}.png", b"a picture"),
        ("blobs/shard-00000/notes.txt", NAME.encode()),
        ("blobs/shard-00000/customer-4711.safetensors", b""),
        ("blobs/shard-00009/" + "a" * 48 + ".safetensors", NAME.encode()),
        ("lineage/shard-00000/" + "a" * 48, b"x" * 100 + NAME.encode()),
        ("certificates/notes.txt", NAME.encode()),
        ("certificates/00000001.json.bak", NAME.encode()),
        ("lake/manifest.json.old", NAME.encode()),
        ("mail.txt.gz", gzip.compress(b"dear customer-4711", mtime=0)),
        ("table.csv.gz", gzip.compress(b"id,x\n17,1\n", mtime=0)),
        ("table.csv", b"id,x\n16,1\n17,1\n"),
        ("table.tsv", b"x\tid\n1\t17\n"),
        ("rows.json", b'{"rows": [{"id": 16}, {"id": 17}]}'),
        ("rows.jsonl", b'{"id": 16}\n\n{"x": {"id": 17}}\n'),
        ("rows.jsonl.gz", gzip.compress(b'{"id": 17}\n', mtime=0)),
        ("not-really.parquet", b"customer-4711 is no table"),
        ("not-really.csv", b"\xff\xfe customer-4711 is not UTF-8"),
        ("ledger.sqlite3.bak", NAME.encode()),
        ("half-written.txt.0123.tmp", NAME.encode()),
    ],
)
@pytest.mark.sampled
def test_any_file_that_names_a_row_is_found(lake, needles, name, data):
    assert found(lake, needles) == set()
    put(lake, name, data)
    assert found(lake, needles) == {name}
    lake.storage.delete(name)
    assert found(lake, needles) == set()


def test_digests_are_found_as_bytes_and_as_text(lake, needles):
    one, two = sorted(needle for needle in needles if len(needle) == 16)
    put(lake, "raw", b"x" + one + b"y")
    put(lake, "hex", two.hex().encode())
    held, _ = Look(lake, needles).run()
    assert held == {"raw": {one}, "hex": {two}}


def test_copies_of_tables_are_decoded(lake, needles):
    table(lake, "copy.parquet", {"id": pa.array([16, 17]), "x": pa.array([1.0, 2.0])})
    table(lake, "lake/g0000/train/copy.parquet", {"id": pa.array([17])})
    table(lake, "named.parquet", {"who": pa.array(["customer-1", NAME]).dictionary_encode()})
    table(lake, "digests.parquet", {"_id": pa.array([digest(lake.key, "id", 17)], pa.binary(16))})
    table(lake, "others.parquet", {"id": pa.array([1, 2, 3]), "age": pa.array([17, 17, 17])})
    with lake.storage.staging() as folder:
        feather.write_feather(pa.table({"who": [NAME]}), folder / "t", compression="zstd")
        lake.storage.publish(folder / "t", "named.feather")
    assert found(lake, needles) == {
        "copy.parquet",
        "lake/g0000/train/copy.parquet",
        "named.parquet",
        "digests.parquet",
        "named.feather",
    }


def test_the_database_is_searched_elsewhere(lake, needles, tmp_path):
    put(lake, "ledger.sqlite3", NAME.encode())
    put(lake, "ledger.sqlite3-wal", NAME.encode())
    put(lake, "sub/ledger.sqlite3", NAME.encode())
    assert found(lake, needles, database=str(tmp_path / "storage" / "ledger.sqlite3")) == {"sub/ledger.sqlite3"}
    assert len(found(lake, needles, database=str(tmp_path / "elsewhere.sqlite3"))) == 3


def test_folders_of_dead_processes_are_removed_and_those_at_work_are_searched(lake, needles, tmp_path):
    with lake.storage.staging() as folder:
        (folder / "rows").write_bytes(NAME.encode())
        (tmp_path / "storage" / ".staging-dead").mkdir()
        (tmp_path / "storage" / ".staging-dead" / "rows").write_bytes(NAME.encode())
        assert found(lake, needles) == {f"{folder.name}/rows"}
    assert found(lake, needles) == set()


def test_groups_are_known_by_their_column(tmp_path, make_table):
    make_table(40, groups=5)
    lake = open_lake(tmp_path, data={"group": "person"}, sisa={"shards": 2})
    wanted = {digest(lake.key, "group", "p1")}
    put(lake, "people.csv", b"person,x\np1,2\n")
    put(lake, "others.csv", b"person,x\np2,2\n")
    put(lake, "another-column.csv", b"id,x\np1,2\n")
    assert found(lake, wanted) == {"people.csv"}


# ---------------------------------------------------------------------- what bytes don't show


def parquet(made: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(made, sink, **{"compression": "zstd", **options})
    return sink.getvalue()


def arrow(made: pa.Table, *, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, made.schema, options=options) as writer:
        writer.write_table(made)
    return sink.getvalue()


def words(*values: object) -> pa.DictionaryArray:
    """A column of one row, whose dictionary holds other values besides."""
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["somebody", *values]))


def numbers(*values: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([16, *values]))


def bloom() -> bytes:
    """A filter that was made from a row which is not there: the bits of another file in the place of its own."""
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    options["bloom_filter_options"] = {"who": {"ndv": 1000, "fpp": 0.001}}
    with_it, without = (parquet(pa.table({"who": ["x" * len(NAME), name]}), **options) for name in (NAME, "y" * 13))
    [ours], [theirs] = (
        [chunk.bloom for chunk in ParquetParts(io.BytesIO(data)).chunks()] for data in (without, with_it)
    )
    return without.replace(ours, theirs)


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("deep/table.csv", "id;x\n17;1\n")
    return sink.getvalue()


def tape(mode: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as file:
        data = b'{"id": 17}'
        member = tarfile.TarInfo("rows.json")
        member.size = len(data)
        file.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def numpy_bytes(save, *arrays, **named) -> bytes:
    sink = io.BytesIO()
    save(sink, *arrays, **named)
    return sink.getvalue()


def sqlite() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE people (id INTEGER, x REAL)")
        connection.execute("INSERT INTO people VALUES (17, 0.5)")
        connection.commit()
        return connection.serialize()


def safetensors(note: bytes) -> bytes:
    header = b'{"__metadata__": {"note": "' + note + b'"}}'
    return len(header).to_bytes(8, "little") + header


ONE = pa.table({"x": [1]})
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in NAME).encode()
HIDDEN = {
    "a dictionary": parquet(pa.table({"who": words(NAME)})),
    "a dictionary in a struct": parquet(pa.table({"s": pa.StructArray.from_arrays([words(NAME)], ["who"])})),
    "a number in a struct": parquet(pa.table({"s": [{"id": 17}]})),
    "numbers in a list": parquet(pa.table({"id": [[16, 17]]})),
    "values as differences": parquet(
        pa.table({"who": ["customer-1", NAME]}), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"
    ),
    "pages of version 2": parquet(pa.table({"who": words(NAME)}), data_page_version="2.0"),
    "pages of another codec": parquet(pa.table({"who": words(NAME)}), compression="brotli"),
    "metadata of the file": parquet(ONE.replace_schema_metadata({"pandas": json.dumps({"index": [NAME]})})),
    "escaped metadata": parquet(ONE.replace_schema_metadata({b"pandas": b'{"x": "' + ESCAPED + b'"}'})),
    "metadata of a column": parquet(ONE.cast(pa.schema([pa.field("x", pa.int64(), metadata={"of": NAME})]))),
    "the name of a column": parquet(pa.table({f"score of {NAME}": [1]})),
    "a filter": bloom(),
    "Arrow": arrow(pa.table({"who": words(NAME)})),
    "Arrow, numbers": arrow(pa.table({"id": numbers(17)})),
    "an Arrow stream": arrow(pa.table({"who": words(NAME)}), stream=True),
    "Arrow, metadata": arrow(ONE.replace_schema_metadata({b"x": b'{"x": "' + ESCAPED + b'"}'})),
    "ORC": None,
    "an archive": archive(),
    "a tape": tape("w"),
    "a compressed tape": tape("w:xz"),
    "bzip2": bz2.compress(b"dear customer-4711, " * 3),
    "two layers": gzip.compress(gzip.compress(NAME.encode())),
    "cut off": gzip.compress(NAME.encode() + random.Random(0).randbytes(9000))[:6000],
    "NumPy": numpy_bytes(np.save, np.array([NAME])),
    "NumPy, records": numpy_bytes(np.save, np.array([(17, 1.0)], dtype=[("id", "i8"), ("x", "f8")])),
    "NumPy, archive": numpy_bytes(np.savez_compressed, id=np.array([16, 17])),
    "UTF-16": f"Kunde: {NAME}".encode("utf-16"),
    "escaped.json": b'{"x": ["' + ESCAPED + b'"]}',
    "escaped.safetensors": safetensors(ESCAPED),
    "semicolons.csv": b"\xef\xbb\xbfid;x\r\n17;1\r\n",
    "utf-16.csv": "id,x\n17,1\n".encode("utf-16"),
    "SQLite": sqlite(),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.sampled
def test_what_the_bytes_of_a_file_do_not_show_is_found(lake, needles, kind):
    data = HIDDEN[kind]
    if kind == "ORC":
        sink = io.BytesIO()
        orc.write_table(pa.table({"id": [16, 17]}), sink, compression="zlib")
        data = sink.getvalue()
    put(lake, kind, data)
    assert found(lake, needles) == {kind}


def far(count: int = 2) -> pa.Array:
    """Moments for which Python has no value."""
    return pa.array([2**61] * count, pa.timestamp("us"))


def orc_bytes(made: pa.Table) -> bytes:
    sink = io.BytesIO()
    orc.write_table(made, sink, compression="zlib")
    return sink.getvalue()


def sqlite_with(statement: str) -> bytes:
    """A database whose first table can't be read."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE aaa (x)")
        connection.execute("CREATE TABLE people (id INTEGER)")
        connection.execute("INSERT INTO people VALUES (17)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = ?, rootpage = 0 WHERE name = 'aaa'", [statement])
        connection.commit()
        return connection.serialize()


IDS = pa.array([16, 17])
AS_NUMBERS = {
    "Arrow after a far date": arrow(pa.table({"when": far(), "id": IDS})),
    "an Arrow stream after a far date": arrow(pa.table({"when": far(), "id": IDS}), stream=True),
    "Arrow beside a far date": arrow(pa.table({"s": pa.StructArray.from_arrays([far(), IDS], ["when", "id"])})),
    "Arrow in a list of far dates": arrow(
        pa.table({
            "s": pa.ListArray.from_arrays(
                pa.array([0, 2], pa.int32()), pa.StructArray.from_arrays([far(), IDS], ["when", "id"])
            )
        })
    ),
    "Parquet after a far date": parquet(pa.table({"when": far(), "id": pa.array([16.0, 17.0])})),
    "ORC after a far date": orc_bytes(
        pa.table({
            "when": pa.array([2**40] * 2, pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp("ms")),
            "id": IDS,
        })
    ),
    "Parquet, real numbers": parquet(pa.table({"id": pa.array([16.0, 17.0])})),
    "Parquet, decimals": parquet(pa.table({"id": pa.array([16, 17]).cast(pa.decimal128(21, 2))})),
    "Parquet, text": parquet(pa.table({"id": ["16", "+17"]})),
    "NumPy, real numbers": numpy_bytes(np.savez_compressed, id=np.array([16.0, 17.0])),
    "a table of an unknown module": sqlite_with("CREATE VIRTUAL TABLE aaa USING nosuch(x)"),
    "a table without a schema": sqlite_with("CREATE NONSENSE"),
    "real.csv": b"id,x\n16.0,1\n17.0,2\n",
    "plus.csv": b"id,x\n+17,2\n",
    "zeros.csv": b"id,x\n00017,2\n",
    "exponent.csv": b"id,x\n1.7e1,2\n",
    "spaces.csv": b"x, id\n 2, 17\n",
    "quotes.csv": b'x, "id"\n 2, "17"\n',
    "title.csv": b"# export of today\n\nid,x\n17,2\n",
    "single.csv": b"my people\nid\n17\n",
    "endless.csv": b"id,x\n16," + b"x" * 200_000 + b"\n17,2\n",
    "real.json": b'[{"id": 17.0}]',
    "text.json": b'[{"id": "17"}]',
    "columns.json": b'{"id": {"0": 16, "1": 17}}',
    "lists.json": b'{"id": {"values": [16, 17]}}',
    "split.json": b'{"columns": ["x", "id"], "index": [0], "data": [[2, 17]]}',
    "header.json": b'[["x", "id"], [2, 17]]',
    "zlib": zlib.compress(b'{"id": 17}'),
    "fast zlib": zlib.compress(b'[{"id": 17}]' + b" " * (1 << 20), 1),
    "LZMA": lzma.compress(b'{"id": 17}', format=lzma.FORMAT_ALONE),
    "other.csv.lzma": lzma.compress(
        b"id,x\n17,2\n", format=lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 2}]
    ),
}


@pytest.mark.parametrize("kind", AS_NUMBERS)
@pytest.mark.sampled
def test_a_number_is_found_however_it_is_written_and_whatever_is_beside_it(lake, needles, kind):
    put(lake, kind, AS_NUMBERS[kind])
    assert found(lake, needles) == {kind}


@given(st.integers(-(2**63), 2**64 - 1), st.sampled_from(["{}", " {} ", "{:+d}", "{}.0", "{}.", "{}.000e0", "{}e0"]))
def test_every_spelling_of_a_whole_number_means_it(number, spelling):
    assert meant(spelling.format(number), number=True) == {number}
    assert meant(spelling.format(number).encode(), number=True) == {number}


def test_what_is_no_whole_number_means_none():
    for value in (None, True, "", "17.5", "nan", "inf", "1e999999999", "1e-999999999", 17.5, float("nan"), [17], {}):
        assert meant(value, number=True) == set()
    assert meant(17.0, number=False) == {"17", "17.0"}
    assert meant(" r7", number=False) == {"r7", " r7"}


def test_minima_and_maxima_count_where_no_row_has_them(lake, needles):
    data = parquet(pa.table({"id": pa.array([16, 18])}), compression="none", use_dictionary=False)
    before, after = ((n).to_bytes(8, "little") for n in (18, 17))
    head, row, footer = data.partition(before)
    assert footer.count(before) > 1, "a maximum, in several places"
    put(lake, "bounds.parquet", head + row + footer.replace(before, after))
    assert found(lake, needles) == {"bounds.parquet"}


def test_other_peoples_values_are_no_hit(lake, needles):
    put(lake, "a", parquet(pa.table({"who": words("customer-1"), "age": numbers(17)})))
    put(lake, "b", arrow(pa.table({"who": words("customer-1"), "age": numbers(17)})))
    names = [f"person-{n}" for n in range(200)]
    put(lake, "c", parquet(pa.table({"who": names}), bloom_filter_options={"who": {"ndv": 10, "fpp": 0.5}}))
    assert found(lake, needles) == set()


def test_a_table_that_keeps_values_apart_is_no_end_of_a_purge(lake, needles):
    [name, *_] = lake.files("train", 0)
    made = read_parquet(lake.storage, name)
    made = made.append_column("city", pa.array(["x"] * len(made)).dictionary_encode())
    with lake.storage.staging() as folder:
        pq.write_table(made, folder / "t", **writing(made.schema))
        publish_parquet(lake.storage, folder / "t", name)
    with pytest.raises(PurgeError, match=r"(?s)1 table\(s\) may keep values.*hybridmu upgrade"):
        found(lake, needles)
    assert outdated(lake) == [name]
    assert rewrite_tables(lake) == 1
    assert outdated(lake) == []
    assert found(lake, needles) == set()
