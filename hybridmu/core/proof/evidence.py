"""Evidence of a certificate on one shard: its chains before and after, and proofs of what left it.

The same checks decide whether a certificate is made and whether it holds: see `findings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hybridmu.core.proof import merkle
from hybridmu.core.proof.lineage import Lineage, Link, rechain
from hybridmu.core.proof.merkle import Absence, Inclusion
from hybridmu.core.strategies import get, names
from hybridmu.errors import CertificateRefusedError

if TYPE_CHECKING:  # a certificate is checked without PyTorch
    from hybridmu.core.kernel.rows import Rows

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ChainKey = Annotated[str, Field(pattern="^[0-9a-f]{48}$")]
Weights = Annotated[str, Field(pattern="^[0-9a-f]{48}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: Whether it holds.
        claim: What should hold, as a sentence.
        detail: What was found instead; empty when it holds.
    """

    ok: bool
    claim: str
    detail: str = ""


class Document(BaseModel):
    """A part of the document: frozen, exact types, no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Stage(Document):
    """One removal that the shard went through for the request: by which strategy, first in which version."""

    strategy: Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,15}$")]
    version: Annotated[Count, Field(ge=1)]
    exact: bool


class ChainLink(Document):
    """One slice of a chain, and the key after it; see `core/proof/lineage.py`."""

    slice: Count
    epochs: Count
    rows: Count
    root: Hash
    key: ChainKey


class ShardState(Document):
    """What a sub-model was made of.

    Attributes:
        head: Hash of code, libraries, hyper-parameters and machine.
        links: The rest of its chain, slice 1 first.
        weights: Hash of its weights; None when it is not in the vote.
    """

    head: ChainKey
    links: tuple[ChainLink, ...]
    weights: Weights | None

    @classmethod
    def of(cls, lineage: Lineage, weights: str | None) -> ShardState:
        """Return the state of a sub-model of this lineage."""
        links = [
            ChainLink(slice=link.slice, epochs=link.epochs, rows=link.rows, root=link.root, key=key)
            for link, key in zip(lineage.links, lineage.keys, strict=True)
        ]
        return cls(head=lineage.head, links=tuple(links), weights=weights)


class SliceProof(Document):
    """That one revoked row was in a slice, and is not any more."""

    slice: Count
    leaf: Hash
    inclusion: Inclusion
    absence: Absence


class Evidence(Document):
    """What was measured on the shard.

    Attributes:
        verified: Whether the weights were compared, bit for bit, with a new training without the rows.
        how: How, or why not.
        forget_loss_gap: Of the approximate stage, if there was one and it was measured.
        revoked_rows: Training rows of this shard that the request revoked.
    """

    verified: Literal["yes", "no"]
    how: str
    forget_loss_gap: float | None
    revoked_rows: Count


class ShardEvidence(Document):
    """Everything that a certificate shows of one shard.

    Attributes:
        shard: Its number.
        stages: The removals it went through, in order; the last is exact.
        before: The last exact sub-model that had seen the rows.
        after: The exact sub-model without them.
        proofs: One per revoked training row.
        evidence: What was measured.
    """

    shard: Count
    stages: tuple[Stage, ...]
    before: ShardState
    after: ShardState
    proofs: tuple[SliceProof, ...]
    evidence: Evidence


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


def findings(shard: ShardEvidence) -> Iterator[Finding]:
    """Yield what holds and what does not of one shard's evidence, by arithmetic alone."""
    name = f"shard {shard.shard}"
    for when, state in (("before", shard.before), ("after", shard.after)):
        yield _recomputes(f"{name}: the chain {when} follows from its head and its slices", state)
    yield _extends(f"{name}: the chain after is the chain before, with rows removed", shard)
    ok = bool(shard.stages) and shard.stages[-1].exact
    ok = ok and all(earlier.version <= later.version for earlier, later in pairwise(shard.stages))
    yield Finding(ok, f"{name}: the removal ends in an exact one")
    yield _counted(f"{name}: there is one proof per revoked row", shard)
    for slice_ in sorted({proof.slice for proof in shard.proofs}):
        yield _proven(name, slice_, shard)
    yield _measured(f"{name}: what was measured fits what was done", shard)
    yield _changed(name, shard)


def _leaves(rows: Rows, slice_: int, salt: bytes) -> merkle.Leaves:
    mine = slice(rows.upto(slice_ - 1), rows.upto(slice_))
    return merkle.make_leaves(salt, rows.ids[mine], rows.content[mine])


def _recomputes(claim: str, state: ShardState) -> Finding:
    if [link.slice for link in state.links] != list(range(1, len(state.links) + 1)):
        return Finding(False, claim, "the slices are not numbered 1, 2, …")
    links = [Link(link.slice, link.epochs, link.rows, link.root) for link in state.links]
    for link, key in zip(state.links, rechain(state.head, links), strict=True):
        if link.key != key:
            return Finding(False, claim, f"the key after slice {link.slice} is another one")
    return Finding(bool(links), claim, "" if links else "there is no slice")


def _extends(claim: str, shard: ShardEvidence) -> Finding:
    before, after = shard.before.links, shard.after.links
    if len(after) < len(before):
        return Finding(False, claim, "slices are missing")
    for old, new in zip(before, after, strict=False):
        if old.epochs != new.epochs:
            return Finding(False, claim, f"slice {old.slice} is trained for another number of epochs")
        if new.rows > old.rows:
            return Finding(False, claim, f"slice {old.slice} has more rows than before")
        if (old.rows == new.rows) != (old.root == new.root):
            return Finding(False, claim, f"slice {old.slice}: its root and its number of rows do not go together")
    return Finding(True, claim)


def _counted(claim: str, shard: ShardEvidence) -> Finding:
    leaves = {(proof.slice, proof.leaf) for proof in shard.proofs}
    if len(leaves) != len(shard.proofs):
        return Finding(False, claim, "a row is proven twice")
    if len(leaves) != shard.evidence.revoked_rows:
        return Finding(False, claim, f"{shard.evidence.revoked_rows} rows, {len(leaves)} proofs")
    return Finding(True, claim)


def _proven(name: str, slice_: int, shard: ShardEvidence) -> Finding:
    proofs = [proof for proof in shard.proofs if proof.slice == slice_]
    claim = f"{name}, slice {slice_}: {len(proofs)} revoked row(s) were in the old tree and are not in the new one"
    if not 1 <= slice_ <= min(len(shard.before.links), len(shard.after.links)):
        return Finding(False, claim, "there is no such slice")
    old, new = shard.before.links[slice_ - 1], shard.after.links[slice_ - 1]
    if old.rows - new.rows < len(proofs):
        return Finding(False, claim, f"only {old.rows - new.rows} row(s) left the slice")
    wrong = sum(not _gone(proof, old, new) for proof in proofs)
    return Finding(not wrong, claim, f"{wrong} proof(s) do not hold" if wrong else "")


def _gone(proof: SliceProof, old: ChainLink, new: ChainLink) -> bool:
    return (
        proof.leaf == proof.inclusion.leaf == proof.absence.leaf
        and (proof.inclusion.size, proof.absence.size) == (old.rows, new.rows)
        and merkle.verify_inclusion(proof.inclusion, bytes.fromhex(old.root))
        and merkle.verify_absence(proof.absence, bytes.fromhex(new.root))
    )


def _measured(claim: str, shard: ShardEvidence) -> Finding:
    if any(stage.exact != _is_exact(stage.strategy) for stage in shard.stages):
        return Finding(False, claim, "an update is called exact, or an exact removal approximate")
    if shard.evidence.forget_loss_gap is not None and all(stage.exact for stage in shard.stages):
        return Finding(False, claim, "there is a gap of an approximate stage, but no such stage")
    return Finding(True, claim)


def _is_exact(strategy: str) -> bool:
    """Return whether a strategy is exact; one that is not known here can't be believed to be."""
    return strategy in names() and get(strategy).exact


def _changed(name: str, shard: ShardEvidence) -> Finding:
    claim = f"{name}: what was trained without rows is not what was trained with them"
    before, after = shard.before, shard.after
    touched = [old.slice for old, new in zip(before.links, after.links, strict=False) if old.root != new.root]
    if touched and before.weights == after.weights and shard.evidence.verified == "no":
        slices = ", ".join(map(str, touched))
        return Finding(False, claim, f"rows left slice(s) {slices}, but the weights and the vote are as before")
    if touched and before.weights == after.weights:
        return Finding(True, f"{name}: the weights are as before, as are those of a new training, says the signer")
    if after.weights is not None and not any(link.rows for link in after.links):
        return Finding(False, claim, "there are weights, but no row to train on")
    return Finding(True, claim)


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
