"""Bodies of calls: counted as they arrive, parsed or refused in words that can be sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from google.protobuf.struct_pb2 import Struct

from hybridmu.errors import DataError
from hybridmu.serving import grpc_calls, request_body
from hybridmu.serving.answer_schemas import problem


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def read(*parts: bytes, stated: str | None = None, limit: int = 10) -> bytes:
    return asyncio.run(request_body.read(chunks(*parts), stated, limit))


def test_a_body_is_read_up_to_its_limit():
    assert read(b"12345", b"67890") == b"1234567890"
    assert read(b"12345", stated="5") == b"12345"
    assert read(b"12345", stated="about five") == b"12345"


@pytest.mark.parametrize(("parts", "stated"), [((b"12345", b"678901"), None), ((b"x" * 11,), "3"), ((), "11")])
def test_a_longer_one_is_refused_whatever_its_header_says(parts, stated):
    with pytest.raises(request_body.TooLongError, match=r"at most 10 bytes"):
        read(*parts, stated=stated)


def test_nothing_is_read_where_the_header_says_too_much():
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    with pytest.raises(request_body.TooLongError):
        asyncio.run(request_body.read(never(), "11", 10))


def test_a_body_without_an_end_does_not_hold_its_place(monkeypatch):
    async def endless() -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.Event().wait()

    monkeypatch.setattr(request_body, "_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(request_body.read(endless(), None, 10))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"PAR1\xff\xfe",
        b"{",
        b'{"rows": ' + b"[" * 100_000,
        b'{"rows": [{"a": ' + b"9" * 5_000 + b"}]}",
        b"[]",
        b"null",
        b'{"rows": []}',
        b'{"rows": {}}',
        b'{"rows": [1]}',
        b'{"rows": [null]}',
        b'{"rows": "ab"}',
        b'{"rows": [{}], "\\ud800": 1}',
        b'{"rows": [{}, {}, {}, {}]}',
        b'{"rows": [' + b'{"a": "' + b"x" * 40_000 + b'"}, ' * 4 + b"{}]}",
    ],
    ids=range(15),
)
def test_what_is_no_call_is_refused_in_words_that_can_be_sent(sent):
    with pytest.raises(DataError) as refused:
        asyncio.run(request_body.rows_of(sent, 3))
    assert json.dumps(problem(refused.value), ensure_ascii=False).encode()


@pytest.mark.parametrize("pad", [0, 100_000], ids=["short", "long, in a thread"])
def test_rows_come_out_as_they_were_sent(pad):
    rows = [{"a": 1, "s": "x" * pad}, {"a": 2.5, "s": None}]
    assert asyncio.run(request_body.rows_of(json.dumps({"rows": rows}).encode(), 2)) == rows


@pytest.mark.parametrize(
    "sent",
    [
        '{"rows": [{"a": 1, "a": 2}]}',
        '{"rows": [{"a": 1, "\\u0061": 1}]}',
        '{"rows": [{"b": {"a": 1, "a": 2}}]}',
        '{"rows": [{"b": [[{"a": 1, "a": 2}]]}]}',
        '{"rows": [{"b": 1}], "a": 1, "a": 2}',
        '{"rows": [{"b": "c:d"}, {"a": 1, "a": 2}]}',
        '[{"a": 1, "a": 2}]',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_name_that_stands_twice_is_said(sent, encoding):
    with pytest.raises(DataError, match="the name 'a' stands twice"):
        asyncio.run(request_body.rows_of(sent.encode(encoding), 9))


def test_colons_are_no_names():
    rows = [{"a": "b:c", "d": {":": ":"}}, {"a": ":::", "d": [{"a": 1}, {"a": 2}]}]
    assert asyncio.run(request_body.rows_of(json.dumps({"rows": rows}).encode(), 9)) == rows


@pytest.mark.parametrize("rows", [{"0": {}}, "ab", [{1: 2}]])
def test_a_body_is_of_the_types_that_it_should_have(rows):
    with pytest.raises(DataError, match="openapi"):
        request_body.checked({"rows": rows}, 9)


def test_a_message_of_grpc_is_parsed_like_json():
    sent = {"rows": [{"a": 1, "b": 1e300, "c": 2.0**53, "s": "x", "l": [1.5, None, True]}]}
    found = grpc_calls.parsed(grpc_calls.struct(sent).SerializeToString())
    assert found == sent
    kinds = {name: type(value) for name, value in found["rows"][0].items()}
    assert (kinds["a"], kinds["b"]) == (int, float), "a double of any size was not an integer of as many bits"


def nested(depth: int) -> bytes:
    """A struct too deep for its own library to write, one level inside the other by hand."""

    def part(field: int, data: bytes) -> bytes:
        size, length = b"", len(data)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([field << 3 | 2]) + size + bytes([length]) + data

    value = b"\x11" + bytes(8)
    for _ in range(depth):
        value = part(6, part(1, value))
    return part(1, part(1, b"rows") + part(2, value))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused_over_grpc(number):
    sent = Struct()
    sent["rows"] = [{"a": number}]
    with pytest.raises(DataError, match=r"google.protobuf.Struct"):
        grpc_calls.parsed(sent.SerializeToString())


@pytest.mark.parametrize("sent", [b"\xff\xff", b"no message", nested(5_000)], ids=["bytes", "text", "deep"])
def test_what_is_no_message_is_refused(sent):
    with pytest.raises(DataError, match=r"google.protobuf.Struct"):
        grpc_calls.parsed(sent)
    assert grpc_calls.parsed(nested(1)) == {"rows": [0]}
