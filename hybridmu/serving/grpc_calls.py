"""The served model over gRPC: the very bodies of the HTTP interface, as `google.protobuf.Struct`.

    service Ensemble { rpc Predict(google.protobuf.Struct) returns (google.protobuf.Struct); }

In the package `hybridmu.v1`. Numbers of a Struct are doubles. Serve's gRPC proxy listens on every interface, so it is
not started by default, and a call needs a token with the scope `predict`, in the metadata `authorization`.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict, SerializeToJsonError
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from hybridmu.errors import DataError

SERVICE = "hybridmu.v1.Ensemble"


def add_EnsembleServicer_to_server(servicer: Any, server: Any) -> None:
    """Make a server answer the calls of the service; Serve's `grpc_servicer_functions` names this function.

    Args:
        servicer: Has the method `Predict`.
        server: Of gRPC.
    """
    # The message stays bytes in Serve's proxy: it is read where the token has been looked at.
    predict = grpc.unary_unary_rpc_method_handler(servicer.Predict, response_serializer=Struct.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Predict": predict}),))


def call(channel: grpc.Channel, body: dict[str, Any], token: str, application: str, timeout: float = 30.0) -> Any:
    """Return the answer to one call, as HTTP gives it.

    Args:
        channel: To the proxy.
        body: `{"rows": […]}`.
        token: With the scope `predict`.
        application: Name of the Serve application.
        timeout: Seconds.

    Raises:
        grpc.RpcError: It was refused; code and details say why.
    """
    predict = channel.unary_unary(
        f"/{SERVICE}/Predict", request_serializer=Struct.SerializeToString, response_deserializer=Struct.FromString
    )
    metadata = (("authorization", f"Bearer {token}"), ("application", application))
    return plain(predict(struct(body), metadata=metadata, timeout=timeout))


def struct(body: dict[str, Any]) -> Struct:
    """Return JSON-able data as a message."""
    return ParseDict(body, Struct())


def parsed(body: bytes) -> dict[str, Any]:
    """Return a serialized message as JSON-able data.

    Args:
        body: What came.

    Raises:
        DataError: It is no `google.protobuf.Struct`, or is nested too deeply.
    """
    try:
        return plain(Struct.FromString(body))
    except (DecodeError, SerializeToJsonError, ValueError, RecursionError, MemoryError) as error:
        raise DataError("the message is no google.protobuf.Struct", got=type(error).__name__) from None


def plain(message: Struct) -> dict[str, Any]:
    """Return a message as JSON-able data; whole numbers are integers again."""
    found: dict[str, Any] = _whole(MessageToDict(message))
    return found


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    # A double beyond this was no integer that had to become one.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value


def bearer(metadata: Any) -> str | None:
    """Return the token of a call's metadata, or None."""
    for name, value in metadata:
        if name.lower() == "authorization" and str(value).startswith("Bearer "):
            return str(value).removeprefix("Bearer ")
    return None
