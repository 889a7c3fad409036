"""Evidence of a certificate on one shard: its chains before and after, and proofs of what left it.

The same checks decide whether a certificate is made and whether it holds: see `findings`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Protocol

from .tree_proofs import Absence, Inclusion, verify_absence, verify_inclusion
from .typed_json import Rule

Hash = Annotated[str, Rule("64 hex digits", re.compile("[0-9a-f]{64}").fullmatch)]
ChainKey = Annotated[str, Rule("48 hex digits", re.compile("[0-9a-f]{48}").fullmatch)]
Weights = Annotated[str, Rule("48 hex digits", re.compile("[0-9a-f]{48}").fullmatch)]
Count = Annotated[int, Rule("a number from 0 to 2^63 - 1", lambda count: 0 <= count < 2**63)]
Positive = Annotated[int, Rule("a number from 1 to 2^63 - 1", lambda count: 1 <= count < 2**63)]
StrategyName = Annotated[str, Rule("the name of a strategy", re.compile("[a-z][a-z0-9_-]{0,15}").fullmatch)]
_OF_SUMS = "subtract"
EXACT = frozenset({"retrain", _OF_SUMS})  # every other strategy is an update, of whatever name


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


@dataclass(frozen=True)
class Stage:
    """One removal that the shard went through for the request: by which strategy, first in which version."""

    strategy: StrategyName
    version: Positive
    exact: bool


@dataclass(frozen=True)
class ChainLink:
    """One slice of a chain, and the key after it: see `rechain`."""

    slice: Count
    epochs: Count
    rows: Count
    root: Hash
    key: ChainKey


@dataclass(frozen=True)
class ShardState:
    """What a sub-model was made of.

    Attributes:
        head: Hash of code, libraries, hyper-parameters and machine.
        links: The rest of its chain, slice 1 first.
        weights: Hash of its weights; None when it is not in the vote.
    """

    head: ChainKey
    links: tuple[ChainLink, ...]
    weights: Weights | None


@dataclass(frozen=True)
class SliceProof:
    """That one revoked row was in a slice, and is not any more."""

    slice: Count
    leaf: Hash
    inclusion: Inclusion
    absence: Absence


@dataclass(frozen=True)
class Evidence:
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


@dataclass(frozen=True)
class ShardEvidence:
    """Everything that a certificate shows of one shard.

    Attributes:
        shard: Its number.
        stages: The removals it went through, in order; the last is exact.
        before: The last exact sub-model that had seen the rows.
        after: The exact sub-model without them.
        proofs: One per revoked training row.
        evidence: What was measured.
        exactness: What an exact removal is equal in: `bits` of a training, on the machine that made it, or `integers`,
            sums over the rows, which are the same on any. None: an earlier release did not say.
    """

    shard: Count
    stages: tuple[Stage, ...]
    before: ShardState
    after: ShardState
    proofs: tuple[SliceProof, ...]
    evidence: Evidence
    exactness: Literal["bits", "integers"] | None = None


class SliceLink(Protocol):
    """What one slice adds to a chain: number, epochs, rows, and the Merkle root of these in 64 hex digits."""

    @property
    def slice(self) -> int: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def root(self) -> str: ...  # noqa: D102


def rechain(head: str, links: Sequence[SliceLink]) -> tuple[str, ...]:
    """Return the key after every link of a chain.

    Args:
        head: Hash of the static part, hex.
        links: What each slice adds, in slice order.

    Returns:
        One hex key per link.
    """
    key = bytes.fromhex(head)
    keys = []
    for link in links:
        step = hashlib.blake2b(key, digest_size=24)
        step.update(f"slice {link.slice} epochs {link.epochs} rows {link.rows} root {link.root}".encode())
        key = step.digest()
        keys.append(key.hex())
    return tuple(keys)


def findings(shard: ShardEvidence, exact: Collection[str] = EXACT) -> Iterator[Finding]:
    """Yield what holds and what does not of one shard's evidence, by arithmetic alone.

    Args:
        shard: The evidence.
        exact: Strategies that are exact; an operator with a plugin knows further ones.
    """
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
    yield _measured(f"{name}: what was measured fits what was done", shard, exact)
    yield _changed(name, shard)


def _recomputes(claim: str, state: ShardState) -> Finding:
    if [link.slice for link in state.links] != list(range(1, len(state.links) + 1)):
        return Finding(False, claim, "the slices are not numbered 1, 2, …")
    for link, key in zip(state.links, rechain(state.head, state.links), strict=True):
        if link.key != key:
            return Finding(False, claim, f"the key after slice {link.slice} is another one")
    return Finding(bool(state.links), claim, "" if state.links else "there is no slice")


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
        and verify_inclusion(proof.inclusion, bytes.fromhex(old.root))
        and verify_absence(proof.absence, bytes.fromhex(new.root))
    )


def _measured(claim: str, shard: ShardEvidence, exact: Collection[str]) -> Finding:
    # A strategy that is not known here can't be believed to be exact.
    if any(stage.exact != (stage.strategy in exact) for stage in shard.stages):
        return Finding(False, claim, "an update is called exact, or an exact removal approximate")
    if shard.evidence.forget_loss_gap is not None and all(stage.exact for stage in shard.stages):
        return Finding(False, claim, "there is a gap of an approximate stage, but no such stage")
    if shard.exactness == "bits" and any(stage.strategy == _OF_SUMS for stage in shard.stages):
        return Finding(False, claim, f"{_OF_SUMS} is of integers, and its exactness is called that of bits")
    return Finding(True, claim)


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
