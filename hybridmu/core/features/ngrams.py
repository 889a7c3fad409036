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
            counts: Counter[tuple[int, int, bytes]] = Counter()
            for word in _WORD.findall(text.lower()):
                counts.update(self._runs(word[:_LONGEST_WORD]))
            parts: dict[int, float] = {}
            for (place, sign, _), count in counts.items():
                parts[place] = parts.get(place, 0.0) + sign * math.sqrt(count)
            if length := math.sqrt(math.fsum(part * part for part in parts.values())):
                for place, part in parts.items():
                    step = round(part / length / _REACH * LEVELS)
                    made[row, place] = max(-LEVELS, min(step, LEVELS))
        return made

    def _runs_of(self, word: str) -> list[tuple[int, int, bytes]]:
        """Return place, sign and hash of every run of letters in a word."""
        marked = f"<{word}>"
        found = []
        for size in range(self._given["shortest"], self._given["longest"] + 1):
            for start in range(len(marked) - size + 1):
                run = marked[start : start + size].encode("utf-8", "surrogatepass")
                name = hashlib.blake2b(run, digest_size=8).digest()
                number = int.from_bytes(name, "little")
                found.append((number % self.width, 1 - 2 * (number >> 63), name))
        return found
