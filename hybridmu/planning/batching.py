"""Start of waiting requests: together, but never so late that a deadline is missed. Pure.

Requests that share shards are fulfilled by one retrain of each shard from the earliest slice that any of them touches,
so waiting for more of them saves work (arXiv 1912.03817, §6) and keeps an observer from telling single deletions apart
by comparing versions (arXiv 2405.20272).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class Batching:
    """Limits on the collection of requests.

    Attributes:
        seconds: Longest wait of the oldest request; 0 starts at once.
        keys: Start when so many ids and groups are waiting.
        margin: Start when the time left until the earliest deadline is at most this many times the estimated work.
    """

    seconds: float = 0.0
    keys: int = 10_000
    margin: float = 2.0


@dataclass(frozen=True)
class Waiting:
    """One request that waits.

    Attributes:
        keys: Ids and groups that it revokes.
        waited: Seconds since it was accepted; never negative, whatever the clock does.
        slack: Seconds until its deadline; None without one.
    """

    keys: int
    waited: float
    slack: float | None


def due(group: Sequence[Waiting], estimated_seconds: float, policy: Batching) -> str | None:
    """Return why a group of requests must start now, or None while it may wait.

    Args:
        group: Requests that share shards.
        estimated_seconds: Predicted seconds of fulfilling them together.
        policy: How long they may be collected.

    Returns:
        A reason for the log, or None.

    Example:
        >>> due([Waiting(1, 5.0, None)], 1.0, Batching(seconds=60)) is None
        True
        >>> due([Waiting(1, 5.0, 1.5)], 1.0, Batching(seconds=60))
        'deadline: 1.5 s left for about 1.0 s of work'
    """
    oldest = max(request.waited for request in group)
    if oldest >= policy.seconds:
        return f"window: waited {oldest:.1f} of {policy.seconds:g} s"
    if (keys := sum(request.keys for request in group)) >= policy.keys:
        return f"batch: {keys} keys are waiting, {policy.keys} start one"
    slacks = [request.slack for request in group if request.slack is not None]
    if slacks and min(slacks) <= policy.margin * estimated_seconds:
        return f"deadline: {min(slacks):.1f} s left for about {estimated_seconds:.1f} s of work"
    return None


def claim(places: Mapping[Name, Collection[int]], busy: Collection[int]) -> list[list[Name]]:
    """Return which waiting requests can start, in groups that share shards, directly or through others.

    Args:
        places: Request → its shards, oldest first.
        busy: Shards with jobs.

    Example:
        >>> claim({"a": {0}, "b": {1, 2}, "c": {0, 3}, "d": {4}, "e": {2}}, busy={4})
        [['a', 'c'], ['b', 'e']]
        >>> claim({"a": {0, 1}, "b": {1}}, busy={0})  # shard 1 is kept for the one that waited longer
        []
    """
    held, groups = set(busy), list[tuple[set[int], list[Name]]]()
    for name, wanted in places.items():
        if held & set(wanted):
            held |= set(wanted)  # later requests must not starve it by taking its free shards
            continue
        shards, members, apart = set(wanted), [name], []
        for group in groups:
            if group[0] & shards:
                shards |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (shards, members)]
    return [members for _, members in groups]
