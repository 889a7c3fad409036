"""Encoders for tests: they say what they see of their surroundings, or end their process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybridmu.plugins import TextEncoder


class Surroundings(TextEncoder):
    """What may change an encoder's bits: the place among the texts beside, how many they are, and PyTorch's threads."""

    width = 4

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        print("this is no answer")
        found = [(len(text), at, len(texts), torch.get_num_threads()) for at, text in enumerate(texts)]
        return np.minimum(found, 127).astype(np.int8).reshape(-1, 4)


class Fatal(TextEncoder):
    """Ends its process at the text `die`: each time, or until a file is there, which it writes first.

    Args:
        once: The file; empty: each time.
        alive: A process that it does not end.
    """

    width = 1

    def __init__(self, once: str = "", alive: int = 0) -> None:
        self.once, self.alive = once, alive

    @property
    def options(self) -> dict[str, str]:
        """Nothing: neither shapes a feature."""
        return {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if "die" in texts and os.getpid() != self.alive and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            sys.stdout.flush()
            os._exit(3)
        return np.array([[len(text)] for text in texts], np.int8)
