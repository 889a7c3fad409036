"""A Merkle tree over the rows of one slice: which rows a checkpoint saw, in 32 bytes, with short proofs.

Hashes are blake2b with 32-byte digests, kept apart by `person`::

    leaf = H(key=salt, "hybridmu-leaf", id digest ‖ content digest)     secret salt: a leaf can't be guessed
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
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests

Leaves = npt.NDArray[np.uint8]
SIZE = 32
_MOST = 2**64
_HEX = re.compile("[0-9a-f]{64}")

# Copying a prepared state is faster than making one with keywords: most of the cost of a large slice.
_NODE = hashlib.blake2b(digest_size=SIZE, person=b"hybridmu-node")


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


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree with all its levels, from which proofs are read off.

    Attributes:
        levels: Concatenated hashes, the sorted leaves first, one hash last; empty for no leaves.
    """

    levels: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self.levels[0]) // SIZE if self.levels else 0

    @property
    def root(self) -> bytes:
        """Return the root, 32 bytes."""
        return _bind(self.size, self.levels[-1] if self.levels else bytes(SIZE))

    def at(self, index: int, level: int = 0) -> bytes:
        """Return one hash of a level."""
        return self.levels[level][index * SIZE : (index + 1) * SIZE]

    def find(self, leaf: bytes) -> int | None:
        """Return the index of a leaf, or None when it is not there."""
        index = self.place(leaf)
        return index if index < self.size and self.at(index) == leaf else None

    def place(self, leaf: bytes) -> int:
        """Return how many leaves lie below a value."""
        return bisect_left(range(self.size), leaf, key=self.at)


def make_leaves(salt: bytes, ids: Digests, content: Digests) -> Leaves:
    """Hash rows into leaves; about half a microsecond each.

    Args:
        salt: 32 secret bytes.
        ids: uint8 [n, 16], id digests.
        content: uint8 [n, 16], content digests.

    Returns:
        uint8 [n, 32] in the order of the rows; they depend on nothing but the row and the salt.
    """
    base = hashlib.blake2b(digest_size=SIZE, key=salt, person=b"hybridmu-leaf")
    rows = np.concatenate([ids, content], axis=1).tobytes()
    found = []
    for start in range(0, len(rows), SIZE):
        leaf = base.copy()
        leaf.update(rows[start : start + SIZE])
        found.append(leaf.digest())
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, SIZE)


def grow(leaves: Leaves) -> Tree:
    """Return the tree over leaves uint8 [n, 32] in any order."""
    level = _sorted(leaves).tobytes()
    levels = [level] if level else []
    while len(level) > SIZE:
        level = _above(level)
        levels.append(level)
    return Tree(tuple(levels))


def root(leaves: Leaves) -> bytes:
    """Return the root of the tree over leaves uint8 [n, 32] in any order, 32 bytes."""
    level = _sorted(leaves).tobytes()
    while len(level) > SIZE:
        level = _above(level)
    return _bind(len(leaves), level or bytes(SIZE))


def inclusion(tree: Tree, index: int) -> Inclusion:
    """Prove that a leaf is in a tree.

    Args:
        tree: The tree.
        index: Place of the leaf, 0-based.

    Returns:
        About log2(n) hashes.

    Raises:
        IndexError: There is no such leaf.
    """
    if not 0 <= index < tree.size:
        raise IndexError(f"leaf {index} of {tree.size}")
    path = []
    at, width = index, tree.size
    for level in range(len(tree.levels) - 1):
        if (at ^ 1) < width:
            path.append(tree.at(at ^ 1, level).hex())
        at, width = at // 2, (width + 1) // 2
    return Inclusion(tree.at(index).hex(), index, tree.size, tuple(path))


def absence(tree: Tree, leaf: bytes) -> Absence:
    """Prove that a value is not among the leaves of a tree.

    Args:
        tree: The tree.
        leaf: 32 bytes.

    Returns:
        The two neighbours, one at either end, none in an empty tree.

    Raises:
        ValueError: It is there.
    """
    if tree.find(leaf) is not None:
        raise ValueError("the leaf is in the tree")
    index = tree.place(leaf)
    return Absence(
        leaf.hex(),
        tree.size,
        inclusion(tree, index - 1) if index else None,
        inclusion(tree, index) if index < tree.size else None,
    )


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
            found = _join(siblings[used] + found if at & 1 else found + siblings[used])
            used += 1
        at, width = at // 2, (width + 1) // 2
    return used == len(siblings) and _bind(proof.size, found) == root


def verify_absence(proof: Absence, root: bytes) -> bool:
    """Return whether a proof shows that no leaf of the tree of this root has its value; False when malformed.

    It rests on the leaves being sorted, which whoever made the tree vouches for.
    """
    left, right, leaf = proof.left, proof.right, _hash(proof.leaf)
    if not leaf:
        return False
    if left is None and right is None:
        return proof.size == 0 and _bind(0, bytes(SIZE)) == root
    for side in (left, right):
        if side is not None and (side.size != proof.size or not verify_inclusion(side, root)):
            return False
    if (left is not None and _hash(left.leaf) >= leaf) or (right is not None and _hash(right.leaf) <= leaf):
        return False
    before = -1 if left is None else left.index
    after = proof.size if right is None else right.index
    return before + 1 == after


def _sorted(leaves: Leaves) -> Leaves:
    words = np.ascontiguousarray(leaves).view(">u8").reshape(-1, SIZE // 8)
    order = np.argsort(words[:, 0], kind="stable")
    first = words[order, 0]
    if (first[1:] == first[:-1]).any():  # next to never: the first eight bytes of two hashes are the same
        order = np.lexsort(words.T[::-1])
    return leaves[order]


def _above(level: bytes) -> bytes:
    step = 2 * SIZE
    paired = len(level) // step * step
    nodes = []
    for start in range(0, paired, step):
        node = _NODE.copy()
        node.update(level[start : start + step])
        nodes.append(node.digest())
    return b"".join(nodes) + level[paired:]


def _join(pair: bytes) -> bytes:
    node = _NODE.copy()
    node.update(pair)
    return node.digest()


def _hash(text: str) -> bytes:
    """Return the bytes of 64 lower-case hex digits; nothing for any other text."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else b""


def _bind(size: int, top: bytes) -> bytes:
    # The top of one leaf is that leaf: hashed with another person, it is no node.
    return hashlib.blake2b(size.to_bytes(8, "little") + top, digest_size=SIZE, person=b"hybridmu-root").digest()
