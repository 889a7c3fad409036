"""Proofs on Merkle trees: that a leaf is at a place of a tree, and that no leaf has a value.

Hashes are blake2b with 32-byte digests, kept apart by `person`::

    node = H("hybridmu-node", left ‖ right)
    root = H("hybridmu-root", number of leaves (8 bytes, little endian) ‖ top)

Leaves are sorted by value, so that two neighbours prove that nothing lies between them. A node without a sibling
moves up as it is (the shape of RFC 6962). The number of leaves is in the root, and it fixes, with the index, which
siblings a path must name: an inner node can't pass as a leaf, nor one index as another. The top of an empty tree is
32 zero bytes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

SIZE = 32
_MOST = 2**64
_HEX = re.compile("[0-9a-f]{64}")

# Copying a prepared state is faster than making one with keywords: most of the cost of a large slice.
NODE = hashlib.blake2b(digest_size=SIZE, person=b"hybridmu-node")


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That a leaf is at a place of a tree. Hashes are lower-case hex.

    Attributes:
        leaf: The leaf.
        index: Its place among the sorted leaves, 0-based.
        size: Leaves of the tree.
        path: Siblings from the leaf upwards; levels without a sibling are left out.
    """

    leaf: str
    index: int
    size: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Absence:
    """That no leaf of a tree has a value: the leaves around it are neighbours.

    Attributes:
        leaf: The value that is not there.
        size: Leaves of the tree.
        left: The largest leaf below it; None when it would come first.
        right: The smallest leaf above it; None when it would come last.
    """

    leaf: str
    size: int
    left: Inclusion | None
    right: Inclusion | None


def verify_inclusion(proof: Inclusion, root: bytes) -> bool:
    """Return whether a proof shows that its leaf is at its place in the tree of this root; False when malformed."""
    if not 0 <= proof.index < proof.size < _MOST:
        return False
    found, siblings = _hash(proof.leaf), [_hash(sibling) for sibling in proof.path]
    if not found or not all(siblings):
        return False
    at, width, used = proof.index, proof.size, 0
    while width > 1:
        if (at ^ 1) < width:
            if used == len(siblings):
                return False
            found = join(siblings[used] + found if at & 1 else found + siblings[used])
            used += 1
        at, width = at // 2, (width + 1) // 2
    return used == len(siblings) and bind(proof.size, found) == root


def verify_absence(proof: Absence, root: bytes) -> bool:
    """Return whether a proof shows that no leaf of the tree of this root has its value; False when malformed.

    It rests on the leaves being sorted, which the tree's maker vouches for.
    """
    left, right, leaf = proof.left, proof.right, _hash(proof.leaf)
    if not leaf:
        return False
    if left is None and right is None:
        return proof.size == 0 and bind(0, bytes(SIZE)) == root
    for side in (left, right):
        if side is not None and (side.size != proof.size or not verify_inclusion(side, root)):
            return False
    if (left is not None and _hash(left.leaf) >= leaf) or (right is not None and _hash(right.leaf) <= leaf):
        return False
    before = -1 if left is None else left.index
    after = proof.size if right is None else right.index
    return before + 1 == after


def join(pair: bytes) -> bytes:
    """Return the node above two, 64 bytes."""
    node = NODE.copy()
    node.update(pair)
    return node.digest()


def bind(size: int, top: bytes) -> bytes:
    """Return the root of a tree with a number of leaves and a top, 32 bytes."""
    # The top of one leaf is that leaf: hashed with another person, it is no node.
    return hashlib.blake2b(size.to_bytes(8, "little") + top, digest_size=SIZE, person=b"hybridmu-root").digest()


def _hash(text: str) -> bytes:
    """Return the bytes of 64 lower-case hex digits; nothing for any other text."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else b""
