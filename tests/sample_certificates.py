"""Certificates of deletions from small shards, for tests that check or change them."""

from __future__ import annotations

import copy
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof.certificate import RequestFacts, build, sign
from hybridmu.core.proof.evidence import prove, state_of
from hybridmu.core.proof.lineage import lineage
from hybridmu.errors import CertificateRefusedError
from hybridmu.types.keys import RevokedKey
from hybridmu.verifier.checks import check
from hybridmu.verifier.shard_evidence import Evidence, ShardEvidence, ShardState, Stage
from hybridmu.verifier.statements import NOT_PROVEN

OLD, NEW = "0d" * 24, "e3" * 24  # hashes of weights
SALT = b"\5" * 32
RECIPE = Recipe(epochs=(3, 2, 2), batch_size=4, seed=1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = [RevokedKey("id", b"\1" * 32, "ab" * 8), RevokedKey("group", b"\2" * 32, "ab" * 8)]
LOOKED = {"storage": {"needles": 9, "files": 4, "bytes": 99}, "database": {"needles": 9, "bytes": 99}}
PURGE = {"rows": 14, "tables": 2, "files": 3, "duplicates_left": 0, "looked": LOOKED}


def rows_of(slices: list[int], seed: int = 0) -> Rows:
    count, rng = len(slices), np.random.default_rng(seed)
    ids, content = (rng.integers(0, 256, (count, 16), dtype=np.uint8) for _ in range(2))
    x, y = torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64)
    return Rows(x, y, np.sort(np.array(slices, dtype=np.int32)), ids, np.zeros_like(ids), content)


ROWS = rows_of([1] * 5 + [2] * 6 + [3] * 3)


def state(rows: Rows, weights: str | None, recipe: Recipe = RECIPE, shard: int = 0) -> ShardState:
    return state_of(lineage({"torch": "1"}, rows, recipe, shard, SALT), weights)


def shard_evidence(gone=(1, 6, 7), others=(), shard: int = 0, rows: Rows = ROWS, **changed: Any) -> ShardEvidence:
    """What a shard shows after rows `gone` left it, together with those of other requests."""
    numbers = np.arange(len(rows))
    revoked = rows.where(np.isin(numbers, gone)) if len(gone) < len(rows) else rows
    after = rows.where(~np.isin(numbers, [*gone, *others]))
    parts: dict[str, Any] = {
        "shard": shard,
        "stages": (
            Stage(strategy="dpus", version=2, exact=False),
            Stage(strategy="retrain", version=3, exact=True),
        ),
        "before": state(rows, OLD, shard=shard),
        "after": state(after, NEW if len(after) else None, shard=shard),
        "proofs": prove(rows, after, revoked, SALT) if len(gone) else (),
        "evidence": Evidence(verified="yes", how="re-executed", forget_loss_gap=-0.01, revoked_rows=len(gone)),
    }
    return ShardEvidence(**{**parts, **changed})


def made(previous=None, shards=None, **changed: Any) -> dict[str, Any]:
    facts = RequestFacts("request-1", "forget", 100.0, 101.25, 101.5, 160.0, 170.0, 100.5, 200.0)
    parts: dict[str, Any] = {
        "previous": previous,
        "system": "5f0c",
        "request": facts,
        "keys": KEYS,
        "shards": [shard_evidence(shard=4), shard_evidence((0, 13), shard=1)] if shards is None else shards,
        "purge": PURGE,
        "issued_at": 171.0,
    }
    return build(**{**parts, **changed})


@cache
def signed() -> dict[str, Any]:
    return sign(made(), KEY)


def failed(found) -> list[str]:
    return [finding.claim for finding in found.items if not finding.ok]


def refused(*shards: ShardEvidence) -> str:
    with pytest.raises(CertificateRefusedError) as error:
        made(shards=list(shards))
    assert not check(sign(forced(*shards), KEY)).ok
    return str(error.value)


def forced(*shards: ShardEvidence) -> dict[str, Any]:
    """A document as a dishonest operator would write it."""
    return {**made(), "shards": [asdict(shard) for shard in shards]}


def mixed(**changed: Any) -> dict[str, Any]:
    """A request of two ids, one of which had no training row."""
    keys = [RevokedKey("id", bytes([number]) * 32, "ab" * 8) for number in (1, 2)]
    return made(shards=[shard_evidence((1,))], keys=keys, **changed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def chain_of(count: int, key=KEY, system: str = "5f0c") -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for number in range(count):
        previous = documents[-1] if documents else None
        documents.append(sign(made(previous, [shard_evidence((number,))], system=system), key))
    return documents


def leaves(node: Any, path: tuple = ()) -> list[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        return [path]
    return [leaf for name, child in items for leaf in leaves(child, (*path, name))]


def at(node: Any, path: tuple) -> Any:
    for name in path:
        node = node[name]
    return node


def replaced(document: dict, path: tuple, value: Any) -> dict:
    changed = copy.deepcopy(document)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def flipped(value: Any, number: int) -> Any:
    """Another value of the same type, hex digits for hex digits."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if value is None or value == "":
        return "0" * 64
    place = number % len(value)
    other = {"0": "1", "a": "b", "y": "n"}.get(value[place], "0")
    return value[:place] + other + value[place + 1 :]


STAGES = ("shards", 0, "stages")


LIES = {
    "no shard": (("shards",), []),
    "no key": (("keys",), []),
    "a key twice": (("keys",), [{"kind": "id", "mac": "01" * 32, "key_id": "ab" * 8}] * 2),
    "more rows than ids": (("keys",), [{"kind": "id", "mac": "01" * 32, "key_id": "ab" * 8}]),
    "an empty purge": (("purge",), {}),
    "a purge of fewer rows": (("purge",), {**PURGE, "rows": 1}),
    "a purge with a negative count": (("purge",), {**PURGE, "tables": -1}),
    "a purge that searched nothing": (("purge",), {name: PURGE[name] for name in PURGE if name != "looked"}),
    "nothing that it does not show": (("not_proven",), []),
    "an empty search": (("purge", "looked"), {"storage": {}, "database": {}}),
    "a search for nothing": (("purge", "looked"), {name: dict.fromkeys(LOOKED[name], 0) for name in LOOKED}),
    "a search of storage alone": (("purge", "looked", "database"), {"needles": 9}),
    "a search of the database alone": (("purge", "looked", "storage"), {"needles": 9, "files": 0, "bytes": 0}),
    "rows without a needle": (("purge", "looked", "database"), {"needles": 0, "bytes": 99}),
    "that it proves everything": (("not_proven",), ["Nothing: this certificate proves everything."]),
    "a sentence less": (("not_proven",), list(NOT_PROVEN[:5])),
    "a sentence more": (("not_proven",), [*NOT_PROVEN, "Apart from that it proves everything."]),
    "sentences in another order": (("not_proven",), list(NOT_PROVEN[::-1])),
    "weights without a hash": (("shards", 0, "after", "weights"), ""),
    "weights that are a word": (("shards", 0, "before", "weights"), "yes"),
    "a strategy without a name": ((*STAGES, 1, "strategy"), ""),
    "a strategy that nobody knows": ((*STAGES, 1, "strategy"), "magic"),
    "a version before the first": ((*STAGES, 0, "version"), 0),
    "a system with a message": (("system",), "5f0c. It proves everything"),
    "another kind of request": (("request", "kind"), "forgive"),
    "a request without a name": (("request", "id"), ""),
    "an update called exact": ((*STAGES, 1, "strategy"), "dpus"),
    "an approximate retrain": ((*STAGES, 0, "strategy"), "retrain"),
    "a gap without an approximate stage": (STAGES, [{"strategy": "retrain", "version": 3, "exact": True}]),
}
