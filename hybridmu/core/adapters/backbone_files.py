"""Files of a transformer in a local folder, and what they say of it; no code of the folder runs, nothing is fetched.

The folder is one that `save_pretrained` of the library `transformers` writes: its shape (`config.json`), a tokenizer
(`tokenizer.json`) and weights as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmu.errors import ConfigError

SHAPE, TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS = ".safetensors"
# Encoders whose layers have one name each: adapters are put at the same places of all of them. Model type → how many
# of the first positions are no token's.
ARCHITECTURES: Mapping[str, bool] = {"bert": False, "roberta": True, "xlm-roberta": True}
SHORTEST, LONGEST = 4, 4096  # tokens of a text: two mark its ends
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Shape:
    """What is known of a backbone before its weights are loaded.

    Attributes:
        kind: Model type, one of `ARCHITECTURES`.
        width: Of a token's vector.
        vocabulary: Tokens that it knows.
        longest: Tokens of a text at most.
        padding: Number of the token that fills a text up.
    """

    kind: str
    width: int
    vocabulary: int
    longest: int
    padding: int


def checked_folder(folder: object) -> Path:
    """Return the folder of a backbone.

    Args:
        folder: As a configuration names it; `~` is the home of the user.

    Raises:
        ConfigError: There is none, or it lacks a file, or holds weights as pickles alone.
    """  # noqa: DOC501 - a function makes it
    path = Path(folder).expanduser() if isinstance(folder, str) and folder.strip() else None
    if path is None or not path.is_dir():
        raise wrong("is not there", got=repr(folder)[:200])
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    if not any(name.endswith(_WEIGHTS) for name in names):
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        raise wrong(
            "has no weights as safetensors",
            got=f"pickles, which may run code: {', '.join(pickles)}"[:200] if pickles else _listed(names),
        )
    if lacking := [name for name in (SHAPE, TOKENIZER) if name not in names]:
        raise wrong(f"lacks {lacking[0]}", got=_listed(names))
    return path


def said_of(path: Path) -> dict[str, Any]:
    """Return what a folder's shape says.

    Args:
        path: From `checked_folder`.

    Raises:
        ConfigError: It is damaged.
    """  # noqa: DOC501 - a function makes it
    try:
        found = json.loads((path / SHAPE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise wrong(f"has a damaged {SHAPE}", got=type(error).__name__) from None
    if not isinstance(found, dict):
        raise wrong(f"has a damaged {SHAPE}", got=type(found).__name__)
    return found


def shape_of(folder: object) -> Shape:
    """Return what a folder says of its model.

    Args:
        folder: As for `checked_folder`.

    Raises:
        ConfigError: As of `checked_folder`; or the model needs code of its own, or is of a kind that no adapter fits.
    """  # noqa: DOC501 - a function makes it
    said = said_of(checked_folder(folder))
    kind = said.get("model_type")
    if "auto_map" in said:
        raise wrong("needs code of its own", got=f"auto_map in {SHAPE}")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise wrong(
            "is of an architecture that adapters do not fit",
            expected=f"model_type: one of {', '.join(ARCHITECTURES)}",
            got=repr(kind)[:60],
        )
    try:
        sizes = {name: _whole(said[name]) for name in ("hidden_size", "vocab_size", "max_position_embeddings")}
        padding = said.get("pad_token_id")
        padding = 0 if padding is None else _whole(padding, least=0)
    except (ValueError, KeyError) as error:
        raise wrong(f"has a damaged {SHAPE}", got=f"{type(error).__name__}: {error}"[:200]) from None
    if padding >= sizes["vocab_size"]:
        raise wrong(f"has a damaged {SHAPE}", got=f"pad_token_id {padding} of {sizes['vocab_size']} tokens")
    before = padding + 1 if ARCHITECTURES[kind] else 0
    longest = sizes["max_position_embeddings"] - before
    return Shape(kind, sizes["hidden_size"], sizes["vocab_size"], longest, padding)


def files_of(folder: object) -> list[Path]:
    """Return the files that shape what a backbone makes of a text, in the order of names.

    Args:
        folder: As for `checked_folder`.

    Raises:
        ConfigError: As of `checked_folder`.
    """
    path = checked_folder(folder)
    return sorted([path / SHAPE, path / TOKENIZER, *weights_of(path)])


def weights_of(path: Path) -> list[Path]:
    """Return the files of weights in a folder, in the order of names."""
    return sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(_WEIGHTS))


def digest_of_files(folder: object) -> str:
    """Return the hash of a backbone's files and of their names, 32 hex digits; where the folder lies is no part of it.

    Args:
        folder: As for `checked_folder`.

    Raises:
        ConfigError: As of `checked_folder`; or a file can't be read.
    """  # noqa: DOC501 - a function makes it
    found = hashlib.blake2b(digest_size=16)
    try:
        for path in files_of(folder):
            found.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    found.update(chunk)
    except OSError as error:
        raise wrong("can't be read", got=type(error).__name__) from None
    return found.hexdigest()


def _whole(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no whole number from {least}")
    return value


def _listed(names: list[str]) -> str:
    return (", ".join(names) or "no files")[:200]


def wrong(what: str, *, expected: str = "", got: str) -> ConfigError:
    """Return the error of a folder that is no backbone.

    Args:
        what: What of the folder is wrong.
        expected: What is right, in place of the files of a folder.
        got: What was found.
    """
    return ConfigError(
        f"the folder of the backbone {what}",
        expected=expected or f"a local folder with {SHAPE}, {TOKENIZER} and weights as safetensors",
        got=got,
        remedy="save a model there: MODEL.save_pretrained(FOLDER) and TOKENIZER.save_pretrained(FOLDER) of the library "
        "transformers; nothing is fetched by itself",
    )
