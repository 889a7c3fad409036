"""Encoders of single values: what makes features of a text, or of a picture, when its row comes in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hybridmu.code_digest import code_digest
from hybridmu.errors import ConfigError, MissingExtraError
from hybridmu.kinds import IMAGE_ENCODERS, TEXT_ENCODERS, imported_class
from hybridmu.user_code import contained, told

I8 = npt.NDArray[np.int8]
LEVELS = 127  # features are whole numbers of so many steps from 0 to 1, and to −1
_CHUNK_BYTES = 1 << 20
_WIDEST = 1 << 16


class ValueEncoder(ABC):
    """One way to make features of a value.

    They are a function of that value alone, of nothing that is fitted on rows: what other rows shaped would remember
    them. They are made once, when the row comes in, and stored beside it; a row that is asked about is encoded where
    it is answered.

    Attributes:
        edition: Stands for the code of an encoder of this package in its digest; another one, other features.
    """

    edition: ClassVar[str] = ""

    @property
    @abstractmethod
    def width(self) -> int:
        """Return how many features a value has."""

    @property
    def files(self) -> Iterable[Path]:
        """Return the files that shape the features, such as weights; none by default."""
        return ()

    @property
    def options(self) -> Mapping[str, Any]:
        """Return what else shapes them, as plain data; the attributes of the encoder that are, by default."""
        plain = (bool, int, float, str, type(None))
        return {name: value for name, value in vars(self).items() if isinstance(value, plain)}

    @property
    def digest(self) -> str:
        """Return the hash of all that shapes the features: code, options and files, 32 hex digits."""
        shaping = [self.edition or code_digest(self), sorted(self.options.items())]
        found = hashlib.blake2b(json.dumps(shaping).encode(), digest_size=16)
        for path in self.files:
            found.update(file_digest(path))
        return found.hexdigest()


class TextEncoder(ValueEncoder):
    """One way to make features of a text.

    Example:
        >>> class Lengths(TextEncoder):
        ...     width = 1
        ...
        ...     def encode(self, texts):
        ...         return np.array([[min(len(text), 127)] for text in texts], np.int8)
    """

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> I8:
        """Return the features of some texts, whole numbers of 1/127 from −127 to 127.

        Args:
            texts: Any texts, empty ones too.

        Returns:
            int8 [n, width].
        """


class ImageEncoder(ValueEncoder):
    """One way to make features of a picture.

    Example:
        >>> class Brightness(ImageEncoder):
        ...     width = 1
        ...
        ...     def encode(self, pictures):
        ...         return np.array([[picture.mean() / 255 * 127] for picture in pictures]).astype(np.int8)
    """

    @abstractmethod
    def encode(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> I8:
        """Return the features of some pictures, whole numbers of 1/127 from −127 to 127.

        Args:
            pictures: uint8 [height, width, 3] each, of any size.

        Returns:
            int8 [n, width].
        """


Encoder = TextEncoder | ImageEncoder
_KINDS = {"text": (TEXT_ENCODERS, TextEncoder), "image": (IMAGE_ENCODERS, ImageEncoder)}


def make_encoder(what: str, name: str, options: Mapping[str, Any]) -> Encoder:
    """Build an encoder by registered name or import path `package.module:Class`.

    Args:
        what: `text` or `image`.
        name: The name or path.
        options: Keyword arguments of its constructor.

    Returns:
        The encoder, whose width has been looked at.

    Raises:
        ConfigError: Unknown name, no such module or class, or wrong options.
    """
    registry, base = _KINDS[what]
    known, remedy = registry.names(), f"write a class derived from hybridmu.plugins.{base.__name__}"
    kind = registry.get(name) if name in known else imported_class(f"{what} encoder", name, known, remedy)
    if not issubclass(kind, base):
        raise ConfigError(f"{name} is no {what} encoder", expected=f"a class of hybridmu.plugins.{base.__name__}")
    try:
        with contained():
            made: Encoder = kind(**options)
            width = made.width
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"{what} encoder {name!r} does not take these options", got=told(error)) from None
    except Exception as error:  # the user's own code
        raise ConfigError(f"{what} encoder {name!r} can't be made with these options", got=told(error)) from error
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= _WIDEST:
        expected = f"a whole number from 1 to {_WIDEST:,}"
        raise ConfigError(f"{what} encoder {name!r} has no width", expected=expected, got=repr(width)[:40])
    return made


def digest_of(name: str, encoder: Encoder) -> str:
    """Return an encoder's digest.

    Args:
        name: Of its column, for errors.
        encoder: As it was made.

    Raises:
        ConfigError: Its files or options can't be read.
        MissingExtraError: A package that it needs is not installed.
    """
    try:
        with contained():
            return encoder.digest
    except (ConfigError, MissingExtraError):
        raise
    except Exception as error:  # a file that is gone, or the user's own code
        raise ConfigError(
            f"the encoder of {name!r} can't be told from others",
            expected="`files` that are paths of files, and `options` of plain data",
            got=told(error),
            remedy="mend the encoder, or put its files back",
        ) from None


def file_digest(path: str | Path) -> bytes:
    """Return the hash of a file's bytes, 16 bytes."""
    found = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.digest()
