"""A Merkle tree over the rows of one slice: which rows a checkpoint saw, in 32 bytes, with short proofs.

What nodes and roots are, and what proofs must show: `verifier/tree_proofs.py`. A leaf is blake2b with a 32-byte
digest::

    leaf = H(key=salt, "hybridmu-leaf", id digest ‖ content digest)     secret salt: a leaf can't be guessed
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests
from hybridmu.verifier.tree_proofs import NODE, SIZE, Absence, Inclusion, bind

Leaves = npt.NDArray[np.uint8]


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
        return bind(self.size, self.levels[-1] if self.levels else bytes(SIZE))

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
    return bind(len(leaves), level or bytes(SIZE))


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
        node = NODE.copy()
        node.update(level[start : start + step])
        nodes.append(node.digest())
    return b"".join(nodes) + level[paired:]
