from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.partition import (
    canonical,
    derive,
    digest,
    digests,
    epoch_order,
    held_out,
    order_words,
    place,
)
from hybridmu.errors import DataError

KEY = b"k" * 32
IDS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), unique_by=canonical, min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, b"i7"),
        (-7, b"i-7"),
        (0, b"i0"),
        (2**80, b"i1208925819614629174706176"),
        (np.int8(7), b"i7"),
        (np.uint64(2**64 - 1), b"i18446744073709551615"),
        ("7", b"s7"),
        ("", b"s"),
        ("é", b"s\xc3\xa9"),
        ("i7", b"si7"),
    ],
)
def test_canonical_forms(value, expected):
    assert canonical(value) == expected


@pytest.mark.parametrize("value", [None, 7.0, True, False, b"7", np.float64(7), (7,)])
def test_other_types_have_no_canonical_form(value):
    with pytest.raises(DataError, match="integer or string") as error:
        canonical(value)
    assert type(value).__name__ in str(error.value)


@given(st.integers() | st.text(), st.integers() | st.text())
def test_canonical_is_injective(a, b):
    assert (canonical(a) == canonical(b)) == (type(a) is type(b) and a == b)


def test_digest_depends_on_key_kind_and_type():
    reference = hashlib.blake2b(b"i7", digest_size=16, key=KEY, person=b"id").digest()
    assert digest(KEY, "id", 7) == reference
    others = {digest(KEY, "id", "7"), digest(KEY, "group", 7), digest(b"other", "id", 7), digest(KEY, "id", 8)}
    assert len(others | {reference}) == 5


@given(IDS)
def test_digests_agree_with_one_by_one(ids):
    found = digests(KEY, "group", ids)
    assert (found.shape, found.dtype) == ((len(ids), 16), np.uint8)
    assert [row.tobytes() for row in found] == [digest(KEY, "group", value) for value in ids]


@given(IDS, st.integers(1, 40), st.integers(1, 20), st.data())
def test_placement_is_stable_under_deletion_and_growth(ids, shards, slices, data):
    shard, slice_ = place(digests(KEY, "id", ids), shards, slices)
    assert shard.min() >= 0
    assert shard.max() < shards
    assert slice_.min() >= 1
    assert slice_.max() <= slices
    chosen = data.draw(st.permutations(range(len(ids))))[: data.draw(st.integers(0, len(ids)))]
    again = place(digests(KEY, "id", [ids[i] for i in chosen]), shards, slices)
    assert again[0].tolist() == [shard[i] for i in chosen]
    assert again[1].tolist() == [slice_[i] for i in chosen]


def test_place_by_hand():
    raw = digest(KEY, "id", "someone")
    shard, slice_ = place(np.frombuffer(raw, dtype=np.uint8).reshape(1, 16), 7, 5)
    assert shard[0] == int.from_bytes(raw[:8], "little") % 7
    assert slice_[0] == int.from_bytes(raw[8:], "little") % 5 + 1


def test_placement_is_uniform_and_shard_is_independent_of_slice():
    n, shards, slices = 20_000, 8, 5
    shard, slice_ = place(digests(KEY, "id", range(n)), shards, slices)
    cells = np.zeros((shards, slices))
    np.add.at(cells, (shard, slice_ - 1), 1)
    expected = n / cells.size
    chi_square = ((cells - expected) ** 2 / expected).sum()
    assert chi_square < 72.1  # 39 degrees of freedom, p = 0.001 (deterministic: the key is fixed)


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=80), st.integers(0, 5), st.integers(0, 5), st.data())
def test_epoch_order_of_survivors_is_unchanged_by_deletion(ids, seed, epoch, data):
    words = order_words(digests(KEY, "id", sorted(ids)))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words))))
    full = words[epoch_order(words, seed, 1, 2, epoch)]
    assert sorted(full) == sorted(words)
    survivors = set(words[keep])
    assert [w for w in full if w in survivors] == list(words[keep][epoch_order(words[keep], seed, 1, 2, epoch)])


def test_epoch_order_depends_on_each_of_its_arguments():
    words = order_words(digests(KEY, "id", range(50)))
    arguments = [(0, 0, 1, 0), (1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 0), (0, 0, 1, 1), (0, 11, 1, 0), (0, 1, 11, 0)]
    orders = [tuple(epoch_order(words, *a)) for a in arguments]
    assert len(set(orders)) == len(arguments)
    assert orders[0] == tuple(epoch_order(words, *arguments[0]))


def test_epochs_shuffle_fairly():
    words = order_words(digests(KEY, "id", range(40)))
    firsts = np.array([epoch_order(words, 0, 0, 1, epoch)[0] for epoch in range(2000)])
    counts = np.bincount(firsts, minlength=40)
    assert counts.min() >= 25  # 50 expected, σ = 7
    assert counts.max() <= 80


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_held_out_fraction(fraction):
    keys = digests(KEY, "id", range(20_000))
    mask = held_out(keys, fraction)
    assert mask.mean() == pytest.approx(fraction, abs=0.012)
    shard, slice_ = place(keys, 4, 5)
    for number in range(4):  # every shard and slice gives its share
        assert mask[shard == number].mean() == pytest.approx(fraction, abs=0.03)
    for number in range(1, 6):
        assert mask[slice_ == number].mean() == pytest.approx(fraction, abs=0.03)


def test_held_out_bounds_and_growth():
    keys = digests(KEY, "id", range(500))
    assert not held_out(keys, 0.0).any()
    small, large = held_out(keys, 0.1), held_out(keys, 0.3)
    assert small.any()
    assert (small <= large).all()  # a larger fraction only adds rows
    assert (held_out(keys[100:], 0.3) == large[100:]).all()


def test_derive_is_a_fixed_function():
    assert derive("init/0/0") == int.from_bytes(hashlib.blake2b(b"init/0/0", digest_size=8).digest(), "little")
    assert len({derive(f"init/{seed}/{shard}") for seed in range(30) for shard in range(30)}) == 900
