"""Lineage of a checkpoint: all that it was made of, as a chain of hashes that anyone can recompute.

head  = H(everything static: schedule, optimizer, seed, shard, code, library versions, dtype, device kind, CPU
        capability, thread count)
key_0 = head
key_i = H(key_{i−1}, i, e_i, n_i, root_i)

with e_i the epochs, n_i the live rows of slice i, and root_i the root of their Merkle tree (`core/proof/merkle.py`). A
deletion is a cache miss: no key of a slice that held the row is the same afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridmu.core.proof import merkle
from hybridmu.core.proof.merkle import Leaves
from hybridmu.verifier.shard_evidence import rechain

if TYPE_CHECKING:  # a check of a chain needs no tensor
    from hybridmu.core.kernel.rows import Rows
    from hybridmu.core.kernel.training import Recipe


@dataclass(frozen=True, slots=True)
class Link:
    """What one slice adds to the chain.

    Attributes:
        slice: Its number, 1..R.
        epochs: e_i.
        rows: n_i.
        root: Merkle root of its rows, 64 hex digits.
    """

    slice: int
    epochs: int
    rows: int
    root: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chain of one shard.

    Attributes:
        head: Hash of the static part, 48 hex digits.
        links: What each slice adds, in slice order.
        keys: Key of every slice's checkpoint, each covering slices ≤ its own, 48 hex digits.
    """

    head: str
    links: tuple[Link, ...]
    keys: tuple[str, ...]

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the Merkle root per slice."""
        return tuple(link.root for link in self.links)

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the rows per slice."""
        return tuple(link.rows for link in self.links)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Return the epochs per slice."""
        return tuple(link.epochs for link in self.links)


def head(static: Mapping[str, Any], recipe: Recipe, shard: int) -> str:
    """Return the hash of what is the same for all slices of a shard: equal heads, same code, libraries and machine.

    Args:
        static: JSON-able description of what is the same for all shards.
        recipe: Hyper-parameters; the epochs of a slice are in its own link.
        shard: Shard number.

    Returns:
        48 hex digits.
    """
    shaping = {name: value for name, value in vars(recipe).items() if name != "epochs"}
    document = json.dumps({"static": static, "recipe": shaping, "shard": shard}, sort_keys=True)
    return hashlib.blake2b(document.encode(), digest_size=24).hexdigest()


def lineage(
    static: Mapping[str, Any], rows: Rows, recipe: Recipe, shard: int, salt: bytes, leaves: Leaves | None = None
) -> Lineage:
    """Return the chain of a shard.

    Args:
        static: JSON-able description of what is the same for all slices.
        rows: Live rows of the shard.
        recipe: Hyper-parameters.
        shard: Shard number.
        salt: 32 secret bytes of the lake, which key the leaves of the Merkle trees.
        leaves: uint8 [n, 32], those of the rows in their order, when the caller has kept them.

    Returns:
        One link and one key per slice.
    """
    return chain(head(static, recipe, shard), rows, recipe.epochs, salt, leaves)


def chain(head: str, rows: Rows, epochs: Sequence[int], salt: bytes, leaves: Leaves | None = None) -> Lineage:
    """Return the chain of a shard whose head is known, recorded by another process perhaps.

    Args:
        head: Hash of the static part, hex.
        rows: Live rows of the shard.
        epochs: e_i per slice.
        salt: As in `lineage`.
        leaves: As in `lineage`.

    Returns:
        One link and one key per slice.
    """
    if leaves is None:
        leaves = merkle.make_leaves(salt, rows.ids, rows.content)
    links = []
    start = 0
    for slice_, count in enumerate(epochs, start=1):
        stop = rows.upto(slice_)
        links.append(Link(slice_, count, stop - start, merkle.root(leaves[start:stop]).hex()))
        start = stop
    return Lineage(head, tuple(links), rechain(head, links))
