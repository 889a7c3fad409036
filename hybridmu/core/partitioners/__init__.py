"""Ways to place rows in shards and slices: one file each, registered by name."""

from __future__ import annotations

from hybridmu.core.partitioners.partitioner import Partitioner
from hybridmu.kinds import PARTITIONERS


def register(partitioner: type[Partitioner]) -> None:
    """Add a partitioner.

    Raises:
        ValueError: The name is taken.
    """
    PARTITIONERS.register(partitioner.name, partitioner)


def get(name: str = PARTITIONERS.default) -> Partitioner:
    """Return a partitioner by name; the one of every system that names none by default.

    Raises:
        ValueError: No such partitioner; the message lists the known ones.
    """
    found: Partitioner = PARTITIONERS.get(name)()
    return found


__all__ = ["Partitioner", "get", "register"]
