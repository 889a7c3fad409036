"""The body of a call to the served model: read up to a limit, then parsed; a header can lie, and may be missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError

from hybridmu.errors import DataError
from hybridmu.serving.answer_schemas import PredictRequest
from hybridmu.verifier.plain_data import DoubledNameError, each_once

# A caller that stops in the middle of a body must not hold one of the replica's places for ever.
_SECONDS = 30.0
# Parsing less takes less than handing it to a thread.
_SHORT_BYTES = 32 * 2**10


class TooLongError(DataError):
    """The body is longer than `serving.body_bytes`.

    Args:
        limit: Bytes that it may have.
    """

    def __init__(self, limit: int) -> None:
        expected = f"at most {limit} bytes (serving.body_bytes)"
        super().__init__("the body is too long", expected=expected, remedy="send the rows in several calls")


async def read(chunks: AsyncIterator[bytes], stated: str | None, limit: int) -> bytes:
    """Return a body.

    Args:
        chunks: Its parts as they arrive.
        stated: What the header `Content-Length` says, if it is there.
        limit: Longest body in bytes.

    Raises:
        TooLongError: It is longer, or says so before a byte of it is read.
        TimeoutError: It does not end.
    """
    if stated is not None and stated.isdigit() and int(stated) > limit:
        raise TooLongError(limit)
    found = bytearray()
    async with asyncio.timeout(_SECONDS):
        async for chunk in chunks:
            found += chunk
            if len(found) > limit:
                raise TooLongError(limit)
    return bytes(found)


async def rows_of(body: bytes, most: int) -> list[dict[str, Any]]:
    """Return the rows of a JSON body; a long one is parsed in a thread.

    Args:
        body: Of `POST /v1/predict`.
        most: Rows that a call may have.

    Raises:
        DataError: It is no JSON, or not as the schema says.
    """
    return await asyncio.to_thread(_parsed, body, most) if len(body) > _SHORT_BYTES else _parsed(body, most)


def _parsed(body: bytes, most: int) -> list[dict[str, Any]]:
    try:
        raw = json.loads(body)
        if not _each_once(raw, body):
            json.loads(body, object_pairs_hook=each_once)
    except DoubledNameError as error:
        raise DataError("the body is unclear", expected="every name once in an object", got=str(error)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError("the body is no JSON", expected=_EXPECTED, got=f"{type(error).__name__}: {error}") from None
    return checked(raw, most)


def _each_once(raw: Any, body: bytes) -> bool:
    """Return whether it is certain, at little cost, that no name stands twice in an object of a body.

    A colon stands between every name and its value, in any encoding that JSON is read in; so where there are no more
    colons than names were read, none was read twice. Colons in texts, and objects in cells, leave it open.
    """
    rows = raw.get("rows") if isinstance(raw, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return False
    return body.count(b":") == len(raw) + sum(map(len, rows))


_EXPECTED = '{"rows": [{"column": value, …}, …]}'


def checked(raw: Any, most: int) -> list[dict[str, Any]]:
    """Return the rows of a parsed body.

    Args:
        raw: Anything.
        most: Rows that a call may have.

    Raises:
        DataError: It is not as the schema says, or has too many rows. What was sent is not repeated.
    """
    try:
        rows = PredictRequest.model_validate(raw).rows
    except ValidationError as error:
        says = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise DataError("the call is not as /openapi.json says", expected=_EXPECTED, got=says) from None
    if len(rows) > most:
        raise DataError(
            "a call has too many rows",
            expected=f"at most {most} (serving.request_rows)",
            got=str(len(rows)),
            remedy="send them in several calls",
        )
    return rows
