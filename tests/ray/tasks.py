"""Tasks whose training can be held up from outside without changing a bit of its result."""

from __future__ import annotations

import os
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


class Gated(Mlp):
    """The built-in network; its training stands still while a gate is shut.

    Args:
        hidden: As `Mlp`.
        gate: A file that shuts the gate: it says after how many finished slices in `lineage`. A process that stands
            before it leaves a file beside it, named `waits-` and its number.
        lineage: The folder that has a file for every slice that was ever trained to its end.
    """

    def __init__(self, hidden: Sequence[int], gate: str, lineage: str) -> None:
        super().__init__(hidden)
        self.gate, self.lineage = Path(gate), Path(lineage)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        while self._shut():
            self.gate.with_name(f"waits-{os.getpid()}").touch()
            time.sleep(0.01)
        return super().loss(logits, labels)

    def _shut(self) -> bool:
        try:
            after = self.gate.read_text()
        except FileNotFoundError:
            return False
        return not after or finished(self.lineage) >= int(after)


def finished(lineage: Path) -> int:
    """Return how many slices were ever trained to their end."""
    return sum(file.is_file() and file.suffix != ".tmp" for file in lineage.rglob("*"))


def waiting(gate: Path) -> set[int]:
    """Return the processes that ever stood before a gate."""
    return {int(file.name.removeprefix("waits-")) for file in gate.parent.glob("waits-*")}
