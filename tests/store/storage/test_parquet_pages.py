"""Parquet's parts, read without its reader of rows: pages of every codec and version, bounds, filters, damage."""

from __future__ import annotations

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridmu.runtime.purge.bloom_filters import answers, place, xxh64
from hybridmu.runtime.purge.file_contents import contents
from hybridmu.store.storage.parquet_pages import ParquetParts

WORDS = pa.DictionaryArray.from_arrays([0, 1, 0], ["alice", "bob", "nobody-1"])
TABLE = pa.table({
    "word": WORDS,
    "number": pa.array([7, -3, 7]),
    "deep": [{"ids": [1, 2]}, {"ids": []}, {"ids": [3]}],
    "fixed": pa.array([b"12345678"] * 3, pa.binary(8)),
})


def written(**options) -> ParquetParts:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, **options)
    return ParquetParts(sink)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_page_is_read(codec, version):
    parts = written(compression=codec, data_page_version=version, write_page_index=True)
    found = {}
    for chunk in parts.chunks():
        pages = list(parts.pages(chunk))
        assert [page.dictionary for page in pages] == [True, False]
        found[".".join(chunk.path)] = chunk.decode(pages[0].data)
        assert pages[0].values == len(found[".".join(chunk.path)])
    assert found == {
        "word": [b"alice", b"bob", b"nobody-1"],
        "number": [7, -3],
        "deep.ids.list.element": [1, 2, 3],
        "fixed": [b"12345678"],
    }


def test_minima_and_maxima_of_footer_and_index_are_read():
    [_, number, *_] = written(write_page_index=True).chunks()
    assert set(number.bound_values(number.bounds)) == {7, -3}
    assert len(number.bounds) == 6, "old and new pair in the footer, and one pair in the index"


def test_a_header_with_long_bounds_is_read_to_its_end():
    sink = io.BytesIO()
    pq.write_table(pa.table({"c": ["x" * 300_000, "y"]}), sink, use_dictionary=False)
    parts = ParquetParts(sink)
    [chunk] = parts.chunks()
    assert b"x" * 300_000 in b"".join(page.data for page in parts.pages(chunk))


@pytest.mark.parametrize("seed", range(200))
def test_damage_ends_the_search_of_a_file_and_nothing_else(seed):
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, write_page_index=True)
    data, draw = bytearray(sink.getvalue()), random.Random(seed)
    for _ in range(3):
        data[draw.randrange(4, len(data))] = draw.randrange(256)
    list(contents("a file", io.BytesIO(data)))


def test_a_filter_answers_for_what_no_row_explains():
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, bloom_filter_options={"word": {"ndv": 50, "fpp": 0.01}})
    [bits] = [chunk.bloom for chunk in ParquetParts(sink).chunks() if chunk.bloom]
    assert answers(bits, lambda: [b"bob"])(b"alice")
    assert not answers(bits, lambda: [b"alice", b"bob"])(b"alice")
    assert not answers(bits, lambda: [])(b"somebody else")


def test_the_hash_is_xxh64():
    """Published values, of every length class."""
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    assert xxh64(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1
    assert place(b"abc", 4)[1].bit_count() == 8
