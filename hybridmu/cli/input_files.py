"""Text files, line by line: each is read as it is, or refused; nothing is guessed.

Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is no part of it. A line ends with a line feed, or with
a carriage return and a line feed, and with nothing else: what stands before is the id, spaces included.
"""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from hybridmu.errors import RequestError

# The longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PARQUET = b"PAR1"


def read_lines(source: str) -> list[str]:
    """Return the lines of a file, or of standard input, that are not empty.

    Args:
        source: A path, or `-`.

    Raises:
        RequestError: It is no text file.
    """
    data, name = _read(source)
    lines = text_of(data, name).split("\n")
    return [line for line in (line.removesuffix("\r") for line in lines) if line]


def _read(source: str) -> tuple[bytes, str]:
    """Return the bytes of a file or of standard input, and what it is called in messages.

    Raises:
        RequestError: It can't be read.
    """
    if source == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(source).read_bytes(), source
    except IsADirectoryError:
        raise RequestError(f"can't read {source}", expected="a file", got="a folder") from None
    except ValueError as error:  # a NUL in its name
        raise RequestError("can't read the file", got=f"{source!a}: {error}") from None


def text_of(data: bytes, name: str) -> str:
    """Return the text of a file.

    Args:
        data: Its bytes.
        name: What messages call it.

    Raises:
        RequestError: It is none.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    skipped = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0  # the codecs of the others skip theirs
    expected = "text in UTF-8, or in UTF-16 with a byte order mark"
    if data.startswith(PARQUET):
        raise RequestError(f"{name} is a Parquet file", expected=expected, remedy="write its key column to a text file")
    try:
        text = data[skipped:].decode(encoding)
    except UnicodeDecodeError as error:
        place = skipped + error.start
        line = data.count(b"\n", 0, place) + 1
        got = f"byte 0x{data[place]:02x} at offset {place}, in line {line}"
        remedy = "save it as UTF-8; of a file in Latin-1: iconv -f latin1 -t utf-8 FILE"
        raise RequestError(f"{name} is not {encoding.upper()}", expected=expected, got=got, remedy=remedy) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        remedy = "save it as UTF-8; text in UTF-16 must begin with a byte order mark"
        raise RequestError(f"{name} is not a text file", expected=expected, got=f"a NUL in line {line}", remedy=remedy)
    return text
