"""Pictures as encoders get them: of PNG, JPEG and WebP, as bytes or in base64, and of lists of pixels."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.core.kernel.column_types import kind_of
from hybridmu.errors import DataError
from hybridmu.extras import extra

KIND = "image"
BLOCK = 64  # pictures that an encoder is given at once
PART = 256  # rows that are encoded together, and told of; whole blocks
Picture = npt.NDArray[np.uint8]
_FORMATS = ("PNG", "JPEG", "WEBP")
_MOST_PIXELS = 50_000_000  # of one picture: 150 MB as it is decoded
_EXPECTED = "PNG, JPEG or WebP, as bytes or in base64, or a list of 8-bit pixels"
# Modes that become red, green and blue without losing what the picture shows.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


def check_type(name: str, type_: pa.DataType) -> None:
    """Check that a column can hold pictures.

    Raises:
        DataError: It holds something else.
    """
    if not (_is_bytes(type_) or _field(type_) or _is_pixels(type_) or kind_of(type_) in {"text", "null"}):
        raise DataError(f"column {name!r} holds no pictures", expected=_EXPECTED, got=str(type_))


def kept(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column as the lake keeps them: in base64, as requests hold them too.

    Args:
        name: Of the column.
        values: Of a type that `check_type` lets pass; lists of pixels become PNG.

    Raises:
        DataError: A list is no picture.
    """
    if kind_of(values.type) in {"text", "null"}:
        return values.cast(pa.string())
    texts = [None if cell is None else base64.b64encode(_bytes_of(name, cell)).decode() for cell in cells(values)]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _bytes_of(name: str, cell: Any) -> bytes:
    if isinstance(cell, bytes):
        return cell
    with extra("image"):
        from PIL import Image

    file = io.BytesIO()
    Image.fromarray(of_cell(name, cell)).save(file, "PNG")
    return file.getvalue()


def cells(values: pa.ChunkedArray) -> Sequence[Any]:
    """Return the values of a column, for `of_cell`: they are decoded some at a time."""
    if field := _field(values.type):
        values = pc.struct_field(values, field)
    if not _is_pixels(values.type):
        found: list[Any] = values.to_pylist()
        return found
    lists = values.combine_chunks()  # as arrays: a number of Python for each pixel would fill the memory
    arrays = lists.chunks if isinstance(lists, pa.ChunkedArray) else [lists]
    return [cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None for array in arrays for cell in array]


def of_cell(name: str, value: Any) -> Picture:
    """Return a value as a picture.

    Args:
        name: Of its column.
        value: Base64, with or without the head of a data URL; bytes; or pixels, as a flat list of three planes or of
            one, square, or as an array [height, width, 3].

    Returns:
        uint8 [height, width, 3], upright.

    Raises:
        DataError: It can't be read, or is larger than 50 million pixels.
    """
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):  # as Hugging Face's datasets have them
        value = value["bytes"]
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.rpartition("base64,")[2], validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"column {name!r} has a text that is no base64", expected=_EXPECTED) from None
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(name, bytes(value))
    if isinstance(value, list | tuple | np.ndarray):
        return _of_pixels(name, value)
    raise DataError(f"column {name!r} has a wrong value", expected=_EXPECTED, got=type(value).__name__)


def _decoded(name: str, data: bytes) -> Picture:
    with extra("image"):
        from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            warnings.simplefilter("ignore")
            size, mode = math.prod(picture.size), picture.mode
            if any("16" in str(part[-1]) for part in picture.tile):  # Pillow would drop half of each colour
                mode = "16 bits a colour"
            if size <= _MOST_PIXELS and mode in _MODES:
                return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except Image.DecompressionBombError:
        size, mode = _MOST_PIXELS + 1, ""
    except Exception as error:  # the reader's own, of many kinds: damaged data finds them all
        raise DataError(
            f"column {name!r} has a picture that can't be read", expected=_EXPECTED, got=type(error).__name__
        ) from None
    if size > _MOST_PIXELS:
        raise DataError(
            f"column {name!r} has a picture that is too large",
            expected=f"at most {_MOST_PIXELS:,} pixels",
        )
    raise DataError(f"column {name!r} has a picture of a mode that is not read", expected="8 bits a colour", got=mode)


def _of_pixels(name: str, value: Any) -> Picture:
    try:
        found = np.asarray(value) if len(value) else np.zeros(0, np.uint8)
    except ValueError:  # lists of several lengths
        found = np.zeros(1, np.float32)
    if found.dtype.kind not in "iu" or found.min(initial=0) < 0 or found.max(initial=0) > 255:
        raise DataError(f"column {name!r} has a list that is no picture", expected="whole numbers from 0 to 255")
    if found.ndim == 3 and found.shape[-1] == 3 and found.size:
        return found.astype(np.uint8)
    planes = 3 if found.size % 3 == 0 and math.isqrt(found.size // 3) ** 2 * 3 == found.size else 1
    side = math.isqrt(found.size // planes)
    if found.ndim != 1 or not found.size or side * side * planes != found.size:
        raise DataError(
            f"column {name!r} has a list that is no square picture",
            expected="one plane of pixels, or three: red, green, blue",
            got=f"{found.size} numbers",
        )
    shaped = found.astype(np.uint8).reshape(planes, side, side).transpose(1, 2, 0)
    return np.repeat(shaped, 3, axis=2) if planes == 1 else np.ascontiguousarray(shaped)


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_))


def _is_pixels(type_: pa.DataType) -> bool:
    return kind_of(type_) == "list" and bool(pa.types.is_integer(type_.value_type))


def _field(type_: pa.DataType) -> str:
    """Return the field of a struct that holds bytes, as in datasets of Hugging Face; empty where there is none."""
    if not pa.types.is_struct(type_) or type_.get_field_index("bytes") < 0:
        return ""
    return "bytes" if _is_bytes(type_.field("bytes").type) else ""
