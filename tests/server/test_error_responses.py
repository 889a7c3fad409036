"""Answers to callers after faults: no path, no address, no statement; a reference, under which the log has the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from hybridmu import errors
from hybridmu.server.error_responses import answer, told
from hybridmu.system.system import System
from tests.server.test_app import ROWS, Company

PLACES = ("/srv/folder/blobs/ab12.safetensors", "postgresql://hmu:secret@db.internal:5432/hmu", "s3://bucket/prefix",
          "SELECT tombstones.seq FROM tombstones", r"C:\folder\x", "~/folder", "../folder/guard")  # fmt: skip


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("refusals"))
    yield made
    made.close()


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HybridMUError)]
OF_THE_CALL = (errors.RequestError, errors.StrategyUnavailableError)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not issubclass(kind, OF_THE_CALL)])
def test_no_error_of_ours_names_a_place(kind, place, caplog):
    error = kind(f"can't use {place}", got=f"'{place}'", remedy=f"look at {place}")
    with caplog.at_level(logging.ERROR):
        found = answer(error)
    body = found.body.decode()
    for word in re.findall(r"\w{5,}", place):
        assert word not in body
    (reference,) = re.findall(r"reference ([0-9a-f]{8})", body)
    assert reference in caplog.text
    assert place in caplog.text
    assert kind.__name__ in body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_ids_are_told_to_their_caller_and_no_log(kind, place, caplog):
    """A refusal quotes the keys of the call, whatever they look like: to its caller, and never to the log."""
    if not issubclass(kind, (*OF_THE_CALL, errors.DataError, errors.StateError)) or issubclass(
        kind, (errors.DatabaseError, errors.StorageMismatchError)
    ):
        return
    error = kind([place]) if kind is errors.UnknownKeysError else kind("1 of these ids is on its way in", got=place)
    with caplog.at_level(logging.DEBUG):
        found = answer(error)
    assert place not in caplog.text
    assert told(error) == issubclass(kind, OF_THE_CALL)
    assert 400 <= found.status_code < 500


def test_what_is_plain_is_told_whole():
    for error in (
        errors.StateError("request r-1 can't be cancelled any more", expected="state RECEIVED", got="PLANNED",
                          remedy="what was removed can be brought back by `readmit` and `ingest` only"),
        errors.DataError("this table has no groups", expected="ids", remedy="set data.group before training"),
        errors.would_empty(),
    ):  # fmt: skip
        assert told(error)


def raising(error: BaseException):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", [
    ValueError("invalid literal for int(): 'record-000017'"),
    KeyError("record-000017"),
    AssertionError("record-000017"),
    RecursionError("record-000017"),
    MemoryError("record-000017"),
    UnicodeEncodeError("utf-8", "record-000017", 0, 1, "surrogates not allowed"),
])  # fmt: skip
def test_an_unexpected_error_is_a_500_and_its_words_are_in_no_log(company, monkeypatch, caplog, error):
    client = company.as_("unlucky", "admin")
    monkeypatch.setattr(System, "plan", raising(error))
    with caplog.at_level(logging.DEBUG):
        found = client.post("/v1/plan", json={"ids": ["record-000017"]})
    assert (found.status_code, found.json()["error"]) == (500, "InternalError")
    (reference,) = re.findall(r"reference ([0-9a-f]{8})", found.json()["remedy"])
    assert re.search(rf"fault {reference}: {type(error).__name__} in .*deletion_routes.py:\d+", caplog.text)
    assert "000017" not in caplog.text + found.text
    assert company.as_("lucky", "audit").get("/v1/requests").status_code == 200


def test_damage_and_absence_name_no_place_anywhere(tmp_path, caplog):
    company = Company(tmp_path)
    client, auditor = company.as_("desk", "forget"), company.as_("auditor", "audit")
    auditor.post("/console/enter", data={"token": auditor.headers["authorization"].split()[1]})
    name = client.post("/v1/forget", json={"ids": [ROWS[0]]}).json()["request_id"]
    company.system.run(until_idle=True)
    company.close()
    storage = company.system.site.storage.local
    (certificate,) = storage.glob("certificates/*.json")
    certificate.write_bytes(b"{")
    paths = [f"/v1/requests/{name}", f"/v1/certificates/{name}", "/v1/requests", "/metrics", "/healthz", "/console",
             f"/console/requests/{name}", f"/console/certificates/{name}"]  # fmt: skip
    faults = [auditor.get(f"/v1/certificates/{name}")]
    assert [one.status_code for one in faults] == [500]
    ledger = next(company.folder.rglob("ledger.sqlite3"))
    kept = ledger.read_bytes()
    ledger.write_bytes(b"no database" * 100)
    try:
        faults += [auditor.get(path) for path in paths]
        faults += [client.post(path, json={"ids": [ROWS[1]]}) for path in ("/v1/forget", "/v1/plan")]
    finally:
        ledger.write_bytes(kept)
    # What an open connection has in memory may still be read.
    faults = [one for one in faults if one.status_code >= 500]
    assert {one.status_code for one in faults} == {500, 503}
    for one in faults:
        for word in (str(tmp_path), storage.name, "sqlite", "SELECT", "Traceback", ".py"):
            assert word not in one.text
        assert re.search(r"reference [0-9a-f]{8}", one.text)
