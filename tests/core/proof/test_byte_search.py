"""Searching bytes for many needles at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.proof import byte_search
from hybridmu.core.proof.byte_search import Needles, spelled

# Few letters make prefixes that many needles share, and matches that overlap.
letters = st.binary(max_size=60).map(lambda data: bytes(b"ab\0\xff"[byte % 4] for byte in data))
lists = st.lists(letters.filter(lambda x: 4 <= len(x) <= 9), max_size=8)


@given(data=letters, wanted=lists, chunk=st.sampled_from([4, 6, 1 << 20]))
def test_it_finds_what_a_plain_search_finds(data, wanted, chunk):
    whole = byte_search._CHUNK
    byte_search._CHUNK = chunk
    try:
        assert Needles(wanted).in_(data) == {needle for needle in wanted if needle in data}
    finally:
        byte_search._CHUNK = whole


@given(data=letters, wanted=lists, piece=st.integers(1, 20))
def test_a_stream_is_searched_across_its_pieces(data, wanted, piece):
    whole = byte_search._PIECE
    byte_search._PIECE = piece
    try:
        found = set().union(*Needles(wanted).in_stream(io.BytesIO(data).read))
    finally:
        byte_search._PIECE = whole
    assert found == {needle for needle in wanted if needle in data}


def test_many_needles_in_much_data():
    random = np.random.default_rng(0)
    data = random.bytes(3_000_001)
    there = [data[at : at + 16] for at in (0, 1, (1 << 20) - 8, (1 << 21) - 3, 3_000_001 - 16)]
    absent = [random.bytes(16) for _ in range(3000)]
    assert Needles([*there, *absent]).in_(data) == set(there)


def test_a_needle_that_occurs_by_chance_is_refused():
    with pytest.raises(ValueError, match="shorter than 4"):
        Needles([b"long enough", b"abc"])


def test_digests_are_searched_as_text_too():
    digest, other = bytes(range(16)), b"customer-1"
    assert spelled([digest, other]) == {digest, digest.hex().encode(), other}
