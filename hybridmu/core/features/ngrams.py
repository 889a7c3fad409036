"""Text features by hashed n-grams: which runs of letters a text's words hold.

A run is hashed to a place and a sign (Weinberger et al., Feature hashing for large scale multitask learning, ICML
2009): no vocabulary is fitted, so nothing of one text is left in another's features.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hybridmu.core.features.value_encoders import I8, LEVELS, TextEncoder
from hybridmu.errors import ConfigError

_WORD = re.compile(r"\w+")
_REACH = 0.3  # of a text's unit length; one run of letters has more in texts of a few words alone
_BOUNDS = {"width": (1, 1 << 16), "shortest": (1, 10), "longest": (1, 10)}
_LONGEST_WORD = 100  # letters of a word that count: what is longer is no word, and has as many runs as it likes


class NGrams(TextEncoder):
    """Runs of letters within words, each word with a mark at either end.

    Args:
        width: Places; more of them, fewer runs that share one.
        shortest: Letters of the shortest run.
        longest: Letters of the longest one.
    """

    edition = "1"

    def __init__(self, width: int = 2048, shortest: int = 3, longest: int = 5) -> None:
        given = {"width": width, "shortest": shortest, "longest": longest}
        for name, value in given.items():
            low, high = _BOUNDS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"{name} of ngrams is out of range", expected=f"{low} to {high}", got=repr(value)[:40]
                )
        if shortest > longest:
            raise ConfigError("shortest of ngrams is larger than longest", got=f"{shortest} and {longest}")
        self._given = given
        self._runs = lru_cache(maxsize=1 << 15)(self._runs_of)  # most words are in many texts

    @property
    def width(self) -> int:
        """Return how many features a text has."""
        return self._given["width"]

    @property
    def options(self) -> dict[str, int]:
        """Return what shapes the features."""
        return self._given

    def encode(self, texts: Sequence[str]) -> I8:
        """Return the features: signed square roots of how often each run is there, of unit length, of which 0.3 is 1.

        Every step is correctly rounded, or a sum in a fixed order: the same on any machine.
        """
        made = np.zeros((len(texts), self.width), np.int8)
        for row, text in enumerate(texts):
            counts: Counter[int] = Counter()
            for word in _WORD.findall(text.lower()):
                counts.update(self._runs(word[:_LONGEST_WORD]))
            numbers = np.fromiter(counts.keys(), np.uint64, len(counts))
            roots = np.sqrt(np.fromiter(counts.values(), np.float64, len(counts)))
            signed = np.where(numbers >> np.uint64(63), -roots, roots)
            total = np.bincount((numbers % np.uint64(self.width)).astype(np.int64), signed, self.width)
            if length := math.sqrt(math.fsum((total * total).tolist())):
                made[row] = np.rint(total / length / _REACH * LEVELS).clip(-LEVELS, LEVELS)
        return made

    def _runs_of(self, word: str) -> list[int]:
        """Return the hash of every run of letters in a word, 64 bits: the first is its sign, all say its place."""
        marked = f"<{word}>"
        found = []
        for size in range(self._given["shortest"], self._given["longest"] + 1):
            for start in range(len(marked) - size + 1):
                run = marked[start : start + size].encode("utf-8", "surrogatepass")
                found.append(int.from_bytes(hashlib.blake2b(run, digest_size=8).digest(), "little"))
        return found
