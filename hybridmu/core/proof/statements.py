"""Sentences on what a certificate shows and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridmu.core.proof.evidence import ShardEvidence

NOT_PROVEN = (
    "That the trees held every row of the table, and in order: whoever signs vouches for that.",
    "That a leaf belongs to a person: leaves and HMACs are keyed, so that they can't be guessed from outside.",
    "That no copy was made outside of this system: backups, exports, logs of others, models trained elsewhere.",
    "What was learnt about the rows from answers and versions that were given out before.",
    "That weights equal a new training, unless the evidence says verified: yes; then on the machine it names.",
    "That the clock of the system was right.",
)
_NO_ROW = (
    "no training row of the request was in a trained slice: its rows were in validation or test tables, or were "
    "forgotten before a model saw them"
)


def unshown(shards: Sequence[ShardEvidence]) -> list[str]:
    """Return what certificates of this evidence do not show."""
    if any(shard.proofs for shard in shards):
        return list(NOT_PROVEN)
    return [
        *NOT_PROVEN,
        f"That rows left a model: {_NO_ROW}. There is no proof, only the search that the signer states.",
    ]


def shown(shards: Sequence[ShardEvidence]) -> list[str]:
    """Return what a certificate that holds shows of its shards."""
    proven = [shard for shard in shards if shard.proofs]
    if not proven:
        return [f"No proof of a removal: {_NO_ROW}."]
    rows, names = sum(len(shard.proofs) for shard in proven), _names(proven)
    found = [
        f"{rows} training row(s) were in the slices that the old sub-models were trained on, and are not in those of "
        f"the new ones: shard(s) {names}."
    ]
    if same := [shard for shard in proven if shard.before.weights == shard.after.weights]:
        found.append(
            f"The weights of shard(s) {_names(same)} are as before: a new training without the rows gave the same "
            "bits, as the signer says, so the rows had no influence."
        )
    if anew := [shard for shard in proven if shard.evidence.verified == "yes"]:
        found.append(f"Shard(s) {_names(anew)} were trained anew and compared bit for bit, as the signer says.")
    return found


def shown_by(document: Mapping[str, Any]) -> list[str]:
    """Return what a certificate shows that holds, from its JSON document."""
    return shown([ShardEvidence.model_validate(shard, strict=False) for shard in document["shards"]])


def _names(shards: Sequence[ShardEvidence]) -> str:
    return ", ".join(str(shard.shard) for shard in shards)
