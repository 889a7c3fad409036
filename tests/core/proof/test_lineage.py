"""The chain of hashes that names checkpoints: what changes a key, and who can recompute it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof import merkle
from hybridmu.core.proof.lineage import Link, head, lineage, rechain
from hybridmu.core.proof.lineage import chain as lineage_chain

SALT = bytes(32)
RECIPE = Recipe(epochs=(3, 2, 2), batch_size=4, seed=1)
STATIC = {"environment": {"torch": "1"}, "slices": 3}


def rows_of(slices) -> Rows:
    count = len(slices)
    rng = np.random.default_rng(7)
    ids, content = (rng.integers(0, 256, (count, 16), dtype=np.uint8) for _ in range(2))
    x, y = torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64)
    return Rows(x, y, np.sort(np.array(slices, dtype=np.int32)), ids, np.zeros_like(ids), content)


ROWS = rows_of([1] * 5 + [2] * 4 + [3] * 6)


def chain(rows=ROWS, static=STATIC, recipe=RECIPE, shard=0, salt=SALT):
    return lineage(static, rows, recipe, shard, salt)


def test_the_definition():
    made = chain()
    leaves = merkle.make_leaves(SALT, ROWS.ids, ROWS.content)
    assert made.head == head(STATIC, RECIPE, 0)
    assert (made.counts, made.epochs) == ((5, 4, 6), (3, 2, 2))
    assert made.roots == tuple(merkle.root(leaves[a:b]).hex() for a, b in ((0, 5), (5, 9), (9, 15)))
    key = bytes.fromhex(made.head)
    for number, epochs, rows, root, found in zip((1, 2, 3), (3, 2, 2), made.counts, made.roots, made.keys, strict=True):
        step = f"slice {number} epochs {epochs} rows {rows} root {root}".encode()
        key = hashlib.blake2b(key + step, digest_size=24).digest()
        assert found == key.hex()
    assert rechain(made.head, made.links) == made.keys
    assert lineage_chain(made.head, ROWS, RECIPE.epochs, SALT) == made


def test_kept_leaves_give_the_same_chain():
    leaves = merkle.make_leaves(SALT, ROWS.ids, ROWS.content)
    live = np.arange(len(ROWS)) % 3 > 0
    assert lineage(STATIC, ROWS.where(live), RECIPE, 0, SALT, leaves[live]) == chain(ROWS.where(live))


@given(data=st.data())
def test_a_deletion_changes_exactly_the_keys_from_its_slice_on(data):
    gone = data.draw(st.integers(0, len(ROWS) - 1))
    before, after = chain(), chain(ROWS.where(np.arange(len(ROWS)) != gone))
    touched = int(ROWS.slice[gone])
    for number in (1, 2, 3):
        assert (before.keys[number - 1] == after.keys[number - 1]) == (number < touched)
        assert (before.roots[number - 1] == after.roots[number - 1]) == (number != touched)
    assert before.head == after.head


def test_slices_and_shards_may_be_empty():
    nothing = ROWS.where(np.zeros(len(ROWS), dtype=np.bool_))
    made = chain(nothing)
    assert made.counts == (0, 0, 0)
    assert set(made.roots) == {merkle.root(np.empty((0, 32), dtype=np.uint8)).hex()}
    assert len(set(made.keys)) == 3
    only_last = chain(ROWS.where(ROWS.slice == 3))
    assert only_last.counts == (0, 0, 6)
    assert only_last.keys[:2] == made.keys[:2]


@pytest.mark.parametrize(
    "changed",
    [
        {"static": {**STATIC, "environment": {"torch": "2"}}},
        {"shard": 1},
        {"recipe": replace(RECIPE, seed=2)},
        {"recipe": replace(RECIPE, lr=0.2)},
    ],
)
def test_the_head_covers_what_is_the_same_for_all_slices(changed):
    assert chain(**changed).head != chain().head
    assert chain(**changed).roots == chain().roots
    assert not set(chain(**changed).keys) & set(chain().keys)


def test_epochs_belong_to_their_slice_and_the_salt_to_the_roots():
    other = chain(recipe=replace(RECIPE, epochs=(3, 4, 2)))
    assert other.head == chain().head
    assert [a == b for a, b in zip(other.keys, chain().keys, strict=True)] == [True, False, False]
    salted = chain(salt=b"\1" * 32)
    assert salted.head == chain().head
    assert not set(salted.roots) & set(chain().roots)


@given(
    at=st.integers(0, 2),
    change=st.sampled_from(["slice", "epochs", "rows", "root"]),
)
def test_every_part_of_a_link_shapes_the_keys_from_there_on(at, change):
    made = chain()
    link = made.links[at]
    value = "0" * 64 if change == "root" else getattr(link, change) + 1
    links = [*made.links]
    links[at] = replace(link, **{change: value})
    found = rechain(made.head, links)
    assert [a == b for a, b in zip(found, made.keys, strict=True)] == [n < at for n in range(3)]


def test_an_empty_chain_has_no_keys():
    assert rechain("00" * 24, []) == ()
    assert len(rechain("00" * 24, [Link(1, 1, 0, "00" * 32)])) == 1
