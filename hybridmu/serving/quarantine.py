"""Quarantine: sub-models that do not vote while a deletion waits for their shards. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridmu.types import Touched


@dataclass(frozen=True)
class Quarantine:
    """Sub-models that a replica withholds.

    Attributes:
        withheld: Shards that do not vote.
        upto: Every open deletion whose tombstones have at most this number has no influence on answers.
    """

    withheld: frozenset[int] = frozenset()
    upto: int = 0


def quarantine(touched: Sequence[Touched], removed: Mapping[int, int], min_voters: int) -> Quarantine:
    """Return what to withhold: touched shards in the order of their deletions, as long as enough voters are left.

    Args:
        touched: Shards that deletions wait for.
        removed: Voting shard → tombstones up to this number are out of its sub-model.
        min_voters: So many sub-models vote at least; the last ones may then be touched ones.

    Returns:
        The shards, and up to which tombstone nothing of an open deletion votes.

    >>> quarantine([Touched(2, 7, 9), Touched(0, 8, 8)], {0: 3, 1: 3, 2: 3}, min_voters=1)
    Quarantine(withheld=frozenset({0, 2}), upto=9)
    >>> quarantine([Touched(2, 7, 9), Touched(0, 8, 8)], {0: 3, 1: 3, 2: 3}, min_voters=2)
    Quarantine(withheld=frozenset({2}), upto=7)
    """
    withheld: set[int] = set()
    left: list[Touched] = []
    open_ = [each for each in touched if each.last > removed.get(each.shard, each.last)]
    for each in sorted(open_, key=lambda each: (each.first, each.shard)):
        if len(removed) - len(withheld) > min_voters:
            withheld.add(each.shard)
        else:
            left.append(each)
    last = max((each.last for each in touched), default=0)
    # A deletion's tombstones have one number or a run of numbers; what begins later can't be of one before.
    return Quarantine(frozenset(withheld), min([last, *(each.first - 1 for each in left)]))
