"""A task whose training can be held up from outside without changing a bit of its result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hybridmu.task import Mlp


class Pausable(Mlp):
    """The built-in network; every step takes `seconds` longer while the file `pause` exists."""

    def __init__(self, hidden: Sequence[int], pause: str, seconds: float = 0.05) -> None:
        super().__init__(hidden)
        self.pause, self.seconds = Path(pause), seconds

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.pause.exists():
            time.sleep(self.seconds)
        return super().loss(logits, labels)
