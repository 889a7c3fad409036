"""Making of a shard's evidence: proofs of what left it, and the refusal of what does not show a deletion.

What the evidence is, and what must hold of it: `verifier/shard_evidence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hybridmu.core.proof import merkle
from hybridmu.core.proof.lineage import Lineage
from hybridmu.core.strategies import get, names
from hybridmu.errors import CertificateRefusedError
from hybridmu.verifier.shard_evidence import ChainLink, Finding, ShardState, SliceProof

if TYPE_CHECKING:  # a certificate is checked without PyTorch
    from hybridmu.core.kernel.rows import Rows


def state_of(lineage: Lineage, weights: str | None) -> ShardState:
    """Return the state of a sub-model of this lineage.

    Args:
        lineage: Its chain.
        weights: Hash of its weights; None when it is not in the vote.
    """
    links = [
        ChainLink(slice=link.slice, epochs=link.epochs, rows=link.rows, root=link.root, key=key)
        for link, key in zip(lineage.links, lineage.keys, strict=True)
    ]
    return ShardState(head=lineage.head, links=tuple(links), weights=weights)


def exact_strategies() -> frozenset[str]:
    """Return the names of the exact strategies that are registered here, those of plugins among them."""
    return frozenset(name for name in names() if get(name).exact)


def prove(before: Rows, after: Rows, revoked: Rows, salt: bytes) -> tuple[SliceProof, ...]:
    """Prove of every revoked row that it was in its slice and is not any more.

    Args:
        before: Rows of the shard that the old sub-model was made of.
        after: Rows that the new one was made of.
        revoked: The rows in question.
        salt: Of the lake.

    Returns:
        One proof per revoked row, in their order.

    Raises:
        CertificateRefusedError: A revoked row is not in the old tree, or still in the new one.
    """
    proofs = []
    for slice_ in np.unique(revoked.slice).tolist():
        old, new, gone = (_leaves(rows, slice_, salt) for rows in (before, after, revoked))
        old_tree, new_tree = merkle.grow(old), merkle.grow(new)
        for leaf in map(bytes, gone):
            index = old_tree.find(leaf)
            if index is None or new_tree.find(leaf) is not None:
                raise CertificateRefusedError(
                    "a revoked row is not proven gone",
                    expected="a row of the old sub-model that is no row of the new one",
                    got=f"slice {slice_}: a row that the old sub-model never saw"
                    if index is None
                    else f"slice {slice_}: a row that the new sub-model saw",
                    remedy="run `hybridmu verify`, and repeat the request with --strategy retrain",
                )
            proofs.append(
                SliceProof(
                    slice=slice_,
                    leaf=leaf.hex(),
                    inclusion=merkle.inclusion(old_tree, index),
                    absence=merkle.absence(new_tree, leaf),
                )
            )
    return tuple(proofs)


def refuse_unless(found: Sequence[Finding]) -> None:
    """Refuse evidence that does not hold.

    Raises:
        CertificateRefusedError: Some finding is not ok.
    """
    if wrong := [f"{finding.claim}: {finding.detail or 'no'}" for finding in found if not finding.ok]:
        raise CertificateRefusedError(
            "no certificate is made: the evidence does not show the deletion",
            expected="chains, proofs and weights that agree",
            got="; ".join(wrong),
            remedy="run `hybridmu verify`, and repeat the request with --strategy retrain",
        )


def _leaves(rows: Rows, slice_: int, salt: bytes) -> merkle.Leaves:
    mine = slice(rows.upto(slice_ - 1), rows.upto(slice_))
    return merkle.make_leaves(salt, rows.ids[mine], rows.content[mine])
