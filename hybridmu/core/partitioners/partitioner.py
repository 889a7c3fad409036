"""Partitioner: the shard and the slice of every row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests

Numbers = npt.NDArray[np.int32]


class Partitioner(ABC):
    """One way to place rows. Stateless.

    Where a row lies is a function of its owner alone (its group, or its id without one): never of other rows, or their
    removal would move it. An owner's rows of one generation lie in one slice, those of all generations in one shard.

    Attributes:
        name: In configurations.
    """

    name: ClassVar[str]

    @abstractmethod
    def place(self, owners: Digests, shards: int, slices: int) -> tuple[Numbers, Numbers]:
        """Return (shard 0..S−1, slice 1..R) of each row.

        Args:
            owners: Keyed digests of the rows' owners, uint8 [n, 16].
            shards: S.
            slices: R.
        """

    def shards_of(self, owners: Digests, shards: int) -> Numbers:
        """Return the shard that holds an owner's rows, if there are any; int32 [n].

        Args:
            owners: As for `place`.
            shards: S.
        """
        return self.place(owners, shards, 1)[0]
