"""Text features by a sentence transformer: the embedding that a model in a local folder gives of a text.

The folder is one of the package `sentence-transformers` (Reimers & Gurevych, Sentence-BERT, EMNLP 2019), as its `save`
writes it and model hubs hand it out. No code of the folder runs, no weights are unpickled, and nothing is fetched. The
arithmetic is in floating point, so that another machine, or other texts beside it, may give another number now and
then: features are made once, and stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridmu.core.features.value_encoders import I8, LEVELS, TextEncoder
from hybridmu.errors import ConfigError
from hybridmu.extras import extra

_MODULES = "modules.json"
_OURS = "sentence_transformers."  # modules of a folder are classes of this package, and of no other
_SHAPING = {".json", ".txt", ".model", ".safetensors", ".bin"}
_REACH = 6.0  # deviations that are 1: next to no part of an embedding has more
_BATCH = 32  # texts at once


class Sentences(TextEncoder):
    """The direction of a text's embedding.

    Args:
        folder: Of the model, on this machine; every process that encodes has to find it.
    """

    edition = "1"

    def __init__(self, folder: str) -> None:
        if not isinstance(folder, str) or not (Path(folder) / _MODULES).is_file():
            raise ConfigError(
                "folder of sentences holds no model",
                expected=f"a local folder with {_MODULES}, as sentence-transformers saves it",
                got=repr(folder)[:200],
                remedy="save a model there: SentenceTransformer(NAME).save(FOLDER); nothing is fetched by itself",
            )
        self.folder = folder
        for kind in _modules(Path(folder)):
            if not kind.startswith(_OURS):
                raise ConfigError(
                    "the model in folder of sentences needs code of its own",
                    expected=f"modules of {_OURS.rstrip('.')}",
                    got=kind[:200],
                    remedy="write an encoder of your own that has the code: docs/own-kinds.md",
                )

    @cached_property
    def width(self) -> int:
        """Return how many parts an embedding has."""
        return int(_model(self.folder).get_embedding_dimension())

    @property
    def options(self) -> Mapping[str, Any]:
        """Return nothing: where the folder lies shapes no feature, and its files are hashed."""
        return {}

    @property
    def files(self) -> Iterable[Path]:
        """Return what is loaded from the folder, in the order of names."""
        found = (path for path in Path(self.folder).rglob("*") if path.is_file() and path.suffix in _SHAPING)
        return sorted(found, key=lambda path: path.relative_to(self.folder).as_posix())

    def encode(self, texts: Sequence[str]) -> I8:
        """Return the embeddings, of unit length, of which six usual deviations are 1.

        Raises:
            ValueError: The model gave what is no number.
        """
        found: npt.NDArray[np.float32] = _model(self.folder).encode(
            list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True
        )
        wide = found.astype(np.float64).reshape(len(texts), self.width)
        if not np.isfinite(wide).all():
            raise ValueError("the model gave a number that is not finite")
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        directions = wide / np.where(lengths > 0, lengths, 1)
        steps = np.rint(directions * (math.sqrt(self.width) / _REACH * LEVELS))
        return steps.clip(-LEVELS, LEVELS).astype(np.int8)


def _modules(folder: Path) -> list[str]:
    """Return the classes that a folder's model is made of.

    Raises:
        ConfigError: The file that names them is damaged.
    """
    try:
        return [str(module["type"]) for module in json.loads((folder / _MODULES).read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{_MODULES} in folder of sentences is damaged",
            expected="a list of modules with their types, as sentence-transformers saves it",
            remedy="save the model again",
        ) from None


@lru_cache(maxsize=4)
def _model(folder: str) -> Any:
    """Return the model of a folder.

    Raises:
        ConfigError: It can't be loaded.
    """
    with extra("sentences"):
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    logging.disable_progress_bar()  # of weights, on standard error
    try:
        return SentenceTransformer(
            folder,
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        ).eval()
    except Exception as error:  # the library raises of every kind what a damaged folder makes it
        raise ConfigError(
            "the model in folder of sentences can't be loaded",
            expected="a folder as sentence-transformers saves it, with weights as safetensors",
            got=f"{type(error).__name__}: {error}"[:300],
            remedy="save the model again",
        ) from None
