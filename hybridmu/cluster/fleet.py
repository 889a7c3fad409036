"""Fleet of shard and updater actors: their nodes, and which of them makes room for another."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray

from hybridmu.cluster.actors import start_shard, start_updater
from hybridmu.cluster.resources import nodes, slots
from hybridmu.config import Settings


@dataclass(eq=False)
class Member:
    """A live actor.

    Attributes:
        actor: Its handle.
        node: Id of the node it lives on.
        ready: Pending answer of its constructor; None once it came.
        busy: Whether a job is on its way to it or runs on it.
        used_at: When it was last released.
    """

    actor: Any
    node: str
    ready: Any
    busy: bool = False
    used_at: float = field(default_factory=time.monotonic)


class Fleet:
    """Live shard and updater actors, which it starts, places and replaces.

    Without GPUs an actor holds nothing, so any number of them (`cluster.live_actors`) may wait on a node. With GPUs
    every actor holds its devices for life, so a node has room for as many as it has devices for.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shards: dict[int, Member] = {}
        self._updaters: list[Member] = []

    def find(self, shard: int) -> Member | None:
        """Return the shard's actor if it lives."""
        return self._shards.get(shard)

    def has_room(self) -> bool:
        """Return whether one more shard actor may live without another one making room."""
        return bool(self._settings.cluster.gpus_per_shard) or len(self._shards) < self._settings.cluster.live_actors

    def for_shard(self, shard: int) -> Member | None:
        """Return the shard's actor, started if need be; None when nobody can make room."""
        if shard not in self._shards:
            if not self.has_room() and not self._retire(list(self._shards.values())):
                return None
            node = self._place()
            if node is None:
                return None
            actor = start_shard(self._settings, shard, node)
            self._shards[shard] = Member(actor, node, actor.ready.remote())
        return self._shards[shard]

    def for_update(self, limit: int) -> Member | None:
        """Return an idle updater, started if fewer than `limit` live; None when there is none."""
        for member in self._updaters:
            if not member.busy:
                return member
        node = self._place() if len(self._updaters) < limit else None
        if node is None:
            return None
        actor = start_updater(self._settings, node)
        self._updaters.append(Member(actor, node, actor.ready.remote()))
        return self._updaters[-1]

    def drop(self, member: Member) -> None:
        """Kill an actor that can't be trusted any more, or that makes room; its next use starts another."""
        ray.kill(member.actor)
        self._shards = {shard: other for shard, other in self._shards.items() if other is not member}
        self._updaters = [other for other in self._updaters if other is not member]

    def drop_lost(self, alive: Collection[str]) -> None:
        """Forget idle actors of nodes that are gone; a busy one's job reports the loss itself."""
        for member in self._members():
            if not member.busy and member.node not in alive:
                self.drop(member)

    def close(self) -> None:
        """Stop every actor."""
        for member in self._members():
            self.drop(member)

    def _members(self) -> list[Member]:
        return [*self._shards.values(), *self._updaters]

    def _place(self) -> str | None:
        """Return the emptiest node; with GPUs, the node of an idle actor that was retired when all devices are held."""
        room = slots(self._settings, nodes(self._settings.cluster.labels))
        load = dict.fromkeys(room, 0)
        for member in self._members():
            if member.node in load:
                load[member.node] += 1
        if self._settings.cluster.gpus_per_shard:
            free = {node: count for node, count in room.items() if load[node] < count}
            if not free:
                return self._retire([member for member in self._members() if member.node in room])
            room = free
        return min(room, key=lambda node: (load[node] / room[node], node), default=None)

    def _retire(self, candidates: list[Member]) -> str | None:
        """Return the node of the idle actor that was used longest ago, after stopping it; None when all are busy."""
        idle = [member for member in candidates if not member.busy]
        if not idle:
            return None
        oldest = min(idle, key=lambda member: member.used_at)
        self.drop(oldest)
        return oldest.node
