"""The tree of a slice: every proof of what is there holds, and none of what is not can be made up."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybridmu.core.proof import merkle
from hybridmu.core.proof.merkle import absence, grow, inclusion
from hybridmu.verifier.tree_proofs import SIZE, Absence, Inclusion, verify_absence, verify_inclusion

SALT = bytes(range(32))


def digests(numbers, domain: bytes = b"") -> np.ndarray:
    made = b"".join(hashlib.blake2b(domain + b"%d" % n, digest_size=16).digest() for n in numbers)
    return np.frombuffer(made, dtype=np.uint8).reshape(-1, 16)


def leaves_of(numbers, salt: bytes = SALT) -> np.ndarray:
    return merkle.make_leaves(salt, digests(numbers), digests(numbers, b"content"))


def plain_root(leaves: list[bytes]) -> bytes:
    """The definition, recursively: the left part is the largest power of two (RFC 6962)."""

    def top(part: list[bytes]) -> bytes:
        if len(part) < 2:
            return part[0] if part else bytes(32)
        cut = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.blake2b(top(part[:cut]) + top(part[cut:]), digest_size=32, person=b"hybridmu-node").digest()

    size = len(leaves).to_bytes(8, "little")
    return hashlib.blake2b(size + top(sorted(leaves)), digest_size=32, person=b"hybridmu-root").digest()


sizes = st.integers(0, 70)


@given(size=sizes, data=st.data())
def test_the_root_is_the_definition_and_does_not_depend_on_the_order(size, data):
    leaves = leaves_of(range(size))
    order = data.draw(st.permutations(range(size)))
    assert merkle.root(leaves[list(order)]) == grow(leaves).root == plain_root([leaf.tobytes() for leaf in leaves])


def test_a_leaf_is_a_keyed_hash_of_id_and_content():
    ids, content = digests([1, 2]), digests([3, 4])
    made = merkle.make_leaves(SALT, ids, content)
    for row in range(2):
        joined = ids[row].tobytes() + content[row].tobytes()
        assert (
            made[row].tobytes() == hashlib.blake2b(joined, digest_size=32, key=SALT, person=b"hybridmu-leaf").digest()
        )
    assert not (merkle.make_leaves(bytes(32), ids, content) == made).all(axis=1).any()


def test_every_change_of_a_row_changes_the_root():
    ids, content = digests(range(9)), digests(range(9), b"content")
    roots = {merkle.root(merkle.make_leaves(SALT, ids, content))}
    for row in range(9):
        for column in (ids, content):
            changed = column.copy()
            changed[row, 5] ^= 1
            pair = (changed, content) if column is ids else (ids, changed)
            roots.add(merkle.root(merkle.make_leaves(SALT, *pair)))
        roots.add(merkle.root(merkle.make_leaves(SALT, np.delete(ids, row, 0), np.delete(content, row, 0))))
    assert len(roots) == 1 + 9 * 3


@given(size=sizes, data=st.data())
def test_every_leaf_is_proven_present_and_every_other_absent(size, data):
    leaves = leaves_of(range(size))
    tree = grow(leaves)
    for leaf in leaves:
        index = tree.find(leaf.tobytes())
        proof = inclusion(tree, index)
        assert (proof.leaf, proof.index, proof.size) == (leaf.tobytes().hex(), index, size)
        assert verify_inclusion(proof, tree.root)
        assert len(proof.path) <= max(0, size - 1).bit_length()
        with pytest.raises(ValueError, match="in the tree"):
            absence(tree, leaf.tobytes())
    other = data.draw(st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32])))
    assume(tree.find(other) is None)
    assert verify_absence(absence(tree, other), tree.root)
    for index in (-1, size):
        with pytest.raises(IndexError):
            inclusion(tree, index)


def test_the_empty_tree():
    tree = grow(leaves_of([]))
    assert tree.root == merkle.root(leaves_of([])) == plain_root([])
    proof = absence(tree, bytes(32))
    assert (proof.size, proof.left, proof.right) == (0, None, None)
    assert verify_absence(proof, tree.root)
    assert not verify_absence(proof, grow(leaves_of([1])).root)


def test_equal_first_bytes_are_sorted_to_the_end():
    leaves = np.zeros((40, 32), dtype=np.uint8)
    leaves[:, -1] = np.random.default_rng(0).permutation(40)
    assert merkle.root(leaves) == plain_root([leaf.tobytes() for leaf in leaves])
    assert [grow(leaves).at(n)[-1] for n in range(40)] == list(range(40))


# ---------------------------------------------------------------------- forgery


@given(size=st.integers(1, 40), data=st.data())
def test_a_forged_inclusion_is_refused(size, data):
    tree = grow(leaves_of(range(size)))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion(tree, index)
    other_index = data.draw(st.integers(-1, size + 2).filter(lambda n: n != index))
    other_size = data.draw(st.integers(0, 90).filter(lambda n: n != size))
    foreign = data.draw(st.binary(min_size=32, max_size=32)).hex()
    forged = [
        replace(proof, index=other_index),
        replace(proof, size=other_size),
        replace(proof, index=other_index, size=other_size),
        replace(proof, leaf=foreign),
        replace(proof, path=(*proof.path, foreign)),
        replace(proof, leaf=proof.leaf.upper() if proof.leaf.upper() != proof.leaf else "x" * 64),
        replace(proof, leaf=proof.leaf[:-2]),
        replace(proof, size=2**64 + size),
    ]
    if proof.path:
        at = data.draw(st.integers(0, len(proof.path) - 1))
        forged += [
            replace(proof, path=proof.path[:at] + proof.path[at + 1 :]),
            replace(proof, path=(*proof.path[:at], foreign, *proof.path[at + 1 :])),
            replace(proof, path=(*proof.path[:at], f" {proof.path[at][1:]}", *proof.path[at + 1 :])),
        ]
    assert verify_inclusion(proof, tree.root)
    for attempt in forged:
        assert not verify_inclusion(attempt, tree.root), attempt
    assert not verify_inclusion(proof, grow(leaves_of(range(1, size + 1))).root)


@given(size=st.integers(2, 40), data=st.data())
def test_an_inner_node_does_not_pass_as_a_leaf(size, data):
    tree = grow(leaves_of(range(size)))
    level = data.draw(st.integers(1, len(tree.levels) - 1))
    width = len(tree.levels[level]) // SIZE
    at = data.draw(st.integers(0, width - 1))
    above = merkle.Tree(tree.levels[level:])  # what remains is itself a well-formed, smaller tree
    path = inclusion(above, at).path
    node = above.at(at)
    assume(tree.find(node) is None)  # a leaf without siblings moves up as it is
    for claimed in {width, size, *range(1, 2 * size)}:
        for index in {at, at << level, at * 2}:
            attempt = Inclusion(node.hex(), index, claimed, path)
            assert not verify_inclusion(attempt, tree.root)


def test_the_root_does_not_pass_as_a_leaf_of_one():
    leaves = leaves_of([1])
    tree = grow(leaves)
    assert tree.root != leaves[0].tobytes()
    assert not verify_inclusion(Inclusion(tree.root.hex(), 0, 1, ()), tree.root)


@given(size=st.integers(1, 40), data=st.data())
def test_a_present_leaf_is_never_proven_absent(size, data):
    tree = grow(leaves_of(range(size)))
    index = data.draw(st.integers(0, size - 1))
    leaf = tree.at(index).hex()
    everyone = [None, *(inclusion(tree, n) for n in range(size))]
    left, right = data.draw(st.sampled_from(everyone)), data.draw(st.sampled_from(everyone))
    claimed = data.draw(st.sampled_from([0, size - 1, size, size + 1]))
    assert not verify_absence(Absence(leaf, claimed, left, right), tree.root)
    if 0 < index < size - 1:  # the leaves around it are true, but no neighbours
        around = Absence(leaf, size, inclusion(tree, index - 1), inclusion(tree, index + 1))
        assert not verify_absence(around, tree.root)
        lied = replace(around, right=replace(around.right, index=index))
        assert not verify_absence(lied, tree.root)


@given(size=st.integers(1, 40), other=st.binary(min_size=32, max_size=32), data=st.data())
def test_a_forged_absence_is_refused(size, other, data):
    tree = grow(leaves_of(range(size)))
    assume(tree.find(other) is None)
    proof = absence(tree, other)
    forged = [
        replace(proof, left=proof.right, right=proof.left),
        replace(proof, left=None, right=None),
        replace(proof, left=None, right=None, size=0),
        replace(proof, size=size + 1),
        replace(proof, leaf=other.hex()[:-2]),
    ]
    for name in ("left", "right"):
        side = getattr(proof, name)
        if side is None:
            forged.append(replace(proof, **{name: inclusion(tree, data.draw(st.integers(0, size - 1)))}))
        else:
            forged += [replace(proof, **{name: None}), replace(proof, **{name: replace(side, leaf=other.hex())})]
            forged.append(replace(proof, **{name: replace(side, index=side.index + 1)}))
    for attempt in forged:
        assert not verify_absence(attempt, tree.root), attempt
