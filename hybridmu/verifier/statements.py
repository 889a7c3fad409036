"""Sentences on what a certificate shows and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .shard_evidence import ShardEvidence
from .typed_json import read

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
_NOT_REWRITTEN = (
    "That rows were taken out of a table: the purge counts none that it rewrote, as one does that is begun again after "
    "it was interrupted."
)


def unshown(shards: Sequence[ShardEvidence], kinds: Sequence[str]) -> list[str]:
    """Return what certificates of this evidence do not show.

    Args:
        shards: The evidence.
        kinds: Of every forgotten key.
    """
    rows, count = _rows(shards), len(kinds)
    if not rows:
        more = [f"That rows left a model: {_NO_ROW}. There is no proof, only the search that the signer states."]
    elif "group" in kinds and count > 1:
        more = [
            f"That every key had rows that left a model: of how many of the {count} keys the {rows} proof(s) are can't "
            "be told from outside."
        ]
    elif "group" not in kinds and rows < count:
        more = [
            f"That a row of every key left a model: {rows} of {count} keys have a proof. The others had no row in a "
            "trained slice, as the signer says."
        ]
    else:
        more = []
    return [*NOT_PROVEN, *more]


def admits(told: Sequence[str], shards: Sequence[ShardEvidence], kinds: Sequence[str]) -> bool:
    """Return whether a document says what it does not show, in these words and no others.

    What is special to its evidence may be missing: earlier releases said less of it, and whoever checks says it anyway.

    Args:
        told: What the document says.
        shards: Its evidence.
        kinds: Of every key in it.
    """
    return list(told) in (list(NOT_PROVEN), unshown(shards, kinds))


def shown(shards: Sequence[ShardEvidence], kinds: Sequence[str]) -> list[str]:
    """Return what a certificate that holds shows.

    Args:
        shards: Its evidence.
        kinds: Of every forgotten key.
    """
    proven, count = [shard for shard in shards if shard.proofs], len(kinds)
    if not proven:
        return [f"No proof of a removal: {_NO_ROW}.", f"0 of {count} keys have a proof."]
    rows, names = _rows(shards), _names(proven)
    found = [
        f"{rows} training row(s) were in the slices that the old sub-models were trained on, and are not in those of "
        f"the new ones: shard(s) {names}."
    ]
    if "group" in kinds and count > 1:  # a group has many rows, or none; and a row may be that of an id and of a group
        found.append(f"There are {rows} proof(s) for {count} keys, groups among them: some may have none.")
    else:  # an id has one training row
        found.append(f"{min(rows, count)} of {count} keys have a proof.")
    if same := [shard for shard in proven if shard.before.weights == shard.after.weights]:
        found.append(
            f"The weights of shard(s) {_names(same)} are as before: a new training without the rows gave the same "
            "bits, as the signer says, so the rows had no influence."
        )
    if sums := [shard for shard in proven if shard.exactness == "integers"]:
        found.append(
            f"Shard(s) {_names(sums)} are functions of whole-number sums over their rows, as the signer says: the same "
            "bits on any machine. `weights` is the hash of the sums and of what follows from them."
        )
    if anew := [shard for shard in proven if shard.evidence.verified == "yes"]:
        found.append(f"Shard(s) {_names(anew)} were trained anew and compared bit for bit, as the signer says.")
    return found


def shown_by(document: Mapping[str, Any]) -> list[str]:
    """Return what a certificate shows that holds, from its JSON document."""
    return shown(*_evidence(document))


def unshown_by(document: Mapping[str, Any]) -> list[str]:
    """Return what a certificate that holds does not show, whatever it says of that itself."""
    found = unshown(*_evidence(document))
    if document["purge"]["rows"] and not document["purge"]["tables"]:
        found.append(_NOT_REWRITTEN)
    return found


def _evidence(document: Mapping[str, Any]) -> tuple[list[ShardEvidence], list[str]]:
    shards = [read(ShardEvidence, shard) for shard in document["shards"]]
    return shards, [key["kind"] for key in document["keys"]]


def _rows(shards: Sequence[ShardEvidence]) -> int:
    return sum(len(shard.proofs) for shard in shards)


def _names(shards: Sequence[ShardEvidence]) -> str:
    return ", ".join(str(shard.shard) for shard in shards)
