"""Request mixes: which rows a deletion names. Pure and seeded.

A mix is written `kind:value`, so that a CSV row names it: `rows:1`, `share:0.01`, `touch:0.5` (rows until half of the
shards are touched), `users:3`, `class:1` (the rarest class), `skewed:0.02` (most rows in few shards), `from:3:0.01`
(one per cent of the rows, none before slice 3), `stream:200` (200 requests of one row, `stream.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests, derive
from hybridmu.types import KeyKind

Keys = tuple[tuple[KeyKind, bytes], ...]


@dataclass(frozen=True, eq=False)
class Outline:
    """The training rows of a system without their features, any order.

    Attributes:
        shard: int32 [n].
        slice: int32 [n], 1..R.
        label: int64 [n].
        ids: uint8 [n, 16].
        groups: uint8 [n, 16]; zeros where a row has no group.
    """

    shard: npt.NDArray[np.int32]
    slice: npt.NDArray[np.int32]
    label: npt.NDArray[np.int64]
    ids: Digests
    groups: Digests


@dataclass(frozen=True)
class Deletion:
    """What a mix revokes.

    Attributes:
        keys: Shard → the keys revoked there.
        revoked: Shard → revoked rows per slice.
    """

    keys: dict[int, Keys]
    revoked: dict[int, tuple[int, ...]]

    @property
    def rows(self) -> int:
        """Return how many rows are revoked."""
        return sum(map(sum, self.revoked.values()))


def generator(mix: str, seed: int) -> np.random.Generator:
    """Return the random numbers of a mix."""
    return np.random.default_rng(derive(f"mix/{mix}/{seed}") >> 1)


def choose(mix: str, outline: Outline, shards: int, slices: int, seed: int) -> Deletion | None:
    """Return what a mix revokes.

    Args:
        mix: As the module's text says.
        outline: Every training row.
        shards: S.
        slices: R.
        seed: Decides which rows.

    Returns:
        The deletion; None where the data can't have it (no groups, no such slice).

    Raises:
        ValueError: Unknown kind.
    """
    kind, _, value = mix.partition(":")
    random = generator(mix, seed)
    total = len(outline.shard)
    order = random.permutation(total)
    if kind in {"rows", "stream"}:
        chosen = order[: int(value)]
    elif kind == "share":
        chosen = order[: max(1, round(float(value) * total))]
    elif kind == "touch":
        wanted = int(np.ceil(float(value) * shards))
        first = np.unique(outline.shard[order], return_index=True)[1]
        chosen = order[: int(np.sort(first)[wanted - 1]) + 1]
    elif kind == "users":
        return _users(outline, int(value), slices, random)
    elif kind == "class":
        chosen = np.flatnonzero(outline.label == np.argsort(np.bincount(outline.label))[int(value) - 1])
    elif kind == "skewed":
        weight = 1.0 / (1.0 + random.permutation(shards)[outline.shard]) ** 2
        chosen = random.choice(total, max(1, round(float(value) * total)), replace=False, p=weight / weight.sum())
    elif kind == "from":
        first_slice, share = value.split(":")
        chosen = order[outline.slice[order] >= int(first_slice)][: max(1, round(float(share) * total))]
    else:
        raise ValueError(f"unknown request mix {mix!r}")
    return _deletion(outline, chosen, slices) if len(chosen) else None


def _users(outline: Outline, users: int, slices: int, random: np.random.Generator) -> Deletion | None:
    words = np.ascontiguousarray(outline.groups).view("<u8").reshape(-1, 2)[:, 0]
    known = np.unique(words[words > 0])
    if len(known) < users:
        return None
    mask = np.isin(words, random.choice(known, users, replace=False))
    found = _deletion(outline, np.flatnonzero(mask), slices)
    keys: dict[int, Keys] = {}
    for shard in found.keys:
        groups = outline.groups[mask & (outline.shard == shard)]
        keys[shard] = tuple(("group", key) for key in sorted({row.tobytes() for row in groups}))
    return Deletion(keys, found.revoked)


def _deletion(outline: Outline, chosen: npt.NDArray[np.int64], slices: int) -> Deletion:
    keys: dict[int, Keys] = {}
    revoked: dict[int, tuple[int, ...]] = {}
    for shard in np.unique(outline.shard[chosen]):
        mine = chosen[outline.shard[chosen] == shard]
        keys[int(shard)] = tuple(("id", key) for key in sorted(row.tobytes() for row in outline.ids[mine]))
        revoked[int(shard)] = tuple(int(c) for c in np.bincount(outline.slice[mine], minlength=slices + 1)[1:])
    return Deletion(keys, revoked)
