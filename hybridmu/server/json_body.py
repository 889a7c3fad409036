"""Bodies of calls: JSON in UTF-8, read as a schema says in a lane, where a long one keeps nobody waiting."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

_UTF_8 = ("", "charset=utf-8", 'charset="utf-8"')


async def json_body(request: Request) -> bytes:
    """Return the bytes of a call's body.

    Args:
        request: The call.

    Raises:
        HTTPException: Its header says that it is something else than JSON in UTF-8.
    """
    body = await request.body()
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    if kind.strip() != "application/json" or parameters.strip() not in _UTF_8:
        raise HTTPException(415, "the body must be application/json in UTF-8")
    return body


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the interface's description says of a body that is read in a lane.

    Args:
        model: Its schema.
    """
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
