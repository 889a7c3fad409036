"""Text features by WordLlama: the mean of a static table's vectors of a text's tokens.

A static table has no batch, no thread and no kernel that could change a bit: a text has the same features on any
machine. Table and tokenizer come with the package `wordllama` (Miller, 2024; MIT), of which no code runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridmu.core.features.value_encoders import I8, LEVELS, TextEncoder
from hybridmu.extras import extra, package_folder

_WEIGHTS, _TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
_UNIT = 1 << 24  # every number of half precision is a whole number of 2^-24
_REACH = 0.35  # of a vector's unit length: next to no part has more


class WordLlama(TextEncoder):
    """The direction of the mean vector of a text's tokens, 256 features; an empty text has zeros."""

    edition = "1"
    width = 256

    def encode(self, texts: Sequence[str]) -> I8:
        """Return the features: the sum of the vectors, of unit length, of which 0.35 is 1.

        The sum is of whole numbers, its length a sum that is correctly rounded: the same on any machine.
        """
        table, tokenizer = _loaded()
        made = np.zeros((len(texts), self.width), np.int8)
        for row, found in enumerate(tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            total = table[found.ids].sum(axis=0).astype(np.float64)
            if length := math.sqrt(math.fsum((total * total).tolist())):
                made[row] = np.rint(total / length / _REACH * LEVELS).clip(-LEVELS, LEVELS)
        return made

    @property
    def files(self) -> Iterable[Path]:
        """Return table and tokenizer.

        Raises:
            MissingExtraError: The package is not installed.
        """
        return _folder() / _WEIGHTS, _folder() / _TOKENIZER


def _folder() -> Path:
    return package_folder("wordllama", "wordllama", "text")


@cache
def _loaded() -> tuple[npt.NDArray[np.int64], Any]:
    """Return the table in units of 2^-24, and the tokenizer."""
    with extra("text"):
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    (table,) = load_file(_folder() / _WEIGHTS).values()
    return (table.astype(np.float64) * _UNIT).astype(np.int64), Tokenizer.from_file(str(_folder() / _TOKENIZER))
