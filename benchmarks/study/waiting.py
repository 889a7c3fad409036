"""A task whose steps wait, as a host waits for its GPU: many workers can share two cores and still scale."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from hybridmu.task import Mlp


class Waiting(Mlp):
    """The built-in network; every step takes `seconds` longer.

    Args:
        hidden: Widths of the hidden layers.
        seconds: Wait of a step.
    """

    def __init__(self, hidden: Sequence[int], seconds: float) -> None:
        super().__init__(hidden)
        self.seconds = seconds

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy, later."""
        time.sleep(self.seconds)
        return super().loss(logits, labels)
