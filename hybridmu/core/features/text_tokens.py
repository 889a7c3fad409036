"""Text features by a transformer's tokenizer: the numbers of a text's first tokens, for a task that adapts it.

They are whole numbers, made by a table of the folder: the same on any machine. The folder's weights count in the
digest too: what sub-models adapt is what the rows came in with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hybridmu.core.adapters import backbone_files
from hybridmu.core.adapters.token_codes import NONE, digits_of, to_features
from hybridmu.core.features.value_encoders import I8, TextEncoder, file_digest
from hybridmu.errors import ConfigError
from hybridmu.extras import extra


class Tokens(TextEncoder):
    """The first tokens of a text, between those with which the tokenizer marks its beginning and its end.

    Args:
        folder: Of the transformer, on this machine; every process that encodes has to find it.
        length: Tokens that count, the marks included; what follows is left out.
    """

    edition = "1"

    def __init__(self, folder: str, length: int) -> None:
        longest = backbone_files.LONGEST
        if isinstance(length, bool) or not isinstance(length, int) or not backbone_files.SHORTEST <= length <= longest:
            expected = f"a whole number from {backbone_files.SHORTEST} to {longest}"
            raise ConfigError("length of tokens is wrong", expected=expected, got=repr(length)[:40])
        self.shape = backbone_files.shape_of(folder)
        if length > self.shape.longest:
            raise ConfigError(
                "length of tokens is wrong", expected=f"at most {self.shape.longest}, as the model has", got=str(length)
            )
        self.folder, self.length = folder, length
        path = backbone_files.checked_folder(folder) / backbone_files.TOKENIZER
        self._tokenizer = _loaded(str(path), file_digest(path), length)
        if (known := self._tokenizer.get_vocab_size()) > self.shape.vocabulary:
            raise backbone_files.wrong(
                "has a tokenizer of another model",
                expected=f"at most {self.shape.vocabulary:,} tokens, which the model knows",
                got=f"{known:,}",
            )

    @property
    def width(self) -> int:
        """Return how many features a text has."""
        return self.length * digits_of(self.shape.vocabulary)

    @property
    def options(self) -> Mapping[str, Any]:
        """Return how many tokens count; where the folder lies shapes no feature, and its files are hashed."""
        return {"length": self.length}

    @property
    def files(self) -> Iterable[Path]:
        """Return shape, tokenizer and weights of the folder, in the order of names."""
        return backbone_files.files_of(self.folder)

    def encode(self, texts: Sequence[str]) -> I8:
        """Return the features of some texts."""
        numbers = np.full((len(texts), self.length), NONE, np.int64)
        for row, found in enumerate(self._tokenizer.encode_batch_fast(list(texts))):
            numbers[row, : len(found.ids)] = found.ids
        return to_features(numbers, digits_of(self.shape.vocabulary))


@lru_cache(maxsize=4)
def _loaded(path: str, _: bytes, length: int) -> Any:
    """Return the tokenizer of a file of these bytes, which cuts after so many tokens.

    Raises:
        ConfigError: It can't be loaded.
    """  # noqa: DOC501 - a function makes it
    with extra("adapters"):
        from tokenizers import Tokenizer
    try:
        found = Tokenizer.from_file(path)
        found.no_padding()
        found.enable_truncation(max_length=length)
    except Exception as error:  # the library raises plain exceptions
        raise backbone_files.wrong(
            f"has a damaged {backbone_files.TOKENIZER}", got=f"{type(error).__name__}: {error}"[:200]
        ) from None
    return found
