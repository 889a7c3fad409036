"""Exclusion manifests: what they name, to whom, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybridmu.core.proof.certificate import sign
from hybridmu.core.proof.exclusions import (
    Exclusions,
    KeyColumn,
    KeyColumns,
    build,
    exclusion_digest,
    exclusion_key,
    exclusion_key_id,
    read_keys,
    read_manifest,
)
from hybridmu.errors import RequestError
from hybridmu.verifier.plain_data import canonical, moment

PAGE = Path(__file__).parents[3] / "docs" / "exclusions.md"
GUARD, SIGNING = bytes(range(32)), Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = exclusion_key(GUARD)
PUBLIC = SIGNING.public_key().public_bytes_raw()
COLUMNS = KeyColumns(KeyColumn("id", "integer"), KeyColumn("person", "text"))


def manifest(ids=(7, 9), groups=("alice",), **changed) -> dict:
    digests = {
        (exclusion_key_id(KEY), "id"): [exclusion_digest(KEY, "id", value) for value in ids],
        (exclusion_key_id(KEY), "group"): [exclusion_digest(KEY, "group", value) for value in groups],
    }
    said = {"system": "ab", "version": 3, "issued_at": moment(0.0), "columns": COLUMNS, "digests": digests,
            "unlisted": 0, "later": 2}  # fmt: skip
    return sign(build(**{**said, **changed}), SIGNING)


def written(document: object) -> bytes:
    return json.dumps(document).encode()


def test_it_tells_what_is_listed_and_nothing_else():
    found = Exclusions(read_manifest(written(manifest()), [PUBLIC]), [KEY])
    assert found.excluded("id", [7, 8, 9, "7", None]) == [True, False, True, False, False]
    assert found.excluded("group", ["alice", "bob", 7, None]) == [True, False, False, False]
    assert found.excluded("id", ["alice"]) == [False], "kinds are apart"
    assert found.lists("id")
    assert (found.manifest.version, found.manifest.later) == (3, 2)


def test_it_holds_no_id_and_no_hash_that_can_be_made_without_the_key():
    text = written(manifest(ids=(123456789,), groups=("alice",)))
    assert b"123456789" not in text
    assert b"alice" not in text
    digests = {each for one in manifest()["lists"] for each in one["digests"]}
    for said in (b"7", b"i7", b"id\0i7", b"hybridmu exclusion id\0i7", b"alice", b"salice"):
        for name in ("sha256", "blake2b", "md5"):
            assert hashlib.new(name, said).hexdigest() not in digests
        assert hmac.digest(GUARD, said, "sha256").hex() not in digests, "nor by the guard key itself"
        assert hmac.digest(bytes(32), said, "sha256").hex() not in digests
    assert all(one["digests"] == sorted(one["digests"]) for one in manifest(ids=range(50))["lists"]), (
        "the order tells nothing of the order of requests"
    )


def test_the_key_of_manifests_is_not_the_guard_key_and_does_not_lead_to_it():
    assert KEY != GUARD
    assert exclusion_key(bytes(32)) != KEY
    guard_mac = hmac.digest(GUARD, b"hybridmu guard id\0i7", "sha256")
    assert exclusion_digest(KEY, "id", 7) != guard_mac
    assert exclusion_digest(GUARD, "id", 7) != exclusion_digest(KEY, "id", 7)


def test_what_was_changed_or_signed_by_another_is_refused():
    document = manifest()
    assert read_manifest(canonical(document), None).version == 3
    for name, value in {"version": 4, "later": 0, "system": "cd"}.items():
        with pytest.raises(RequestError, match="was changed"):
            read_manifest(written({**document, name: value}), [PUBLIC])
    shorter = json.loads(written(document))
    shorter["lists"][0]["digests"].pop()
    with pytest.raises(RequestError, match="was changed"):
        read_manifest(written(shorter), None)
    other = Ed25519PrivateKey.generate()
    with pytest.raises(RequestError, match="another key signed"):
        read_manifest(written(sign(document, other)), [PUBLIC])
    named = {**document["signature"], "key_id": "0" * 16}
    with pytest.raises(RequestError, match="was changed"):
        read_manifest(written({**document, "signature": named}), None)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"format": "hybridmu-certificate/1"}', b"\xff", b'{"a": 1, "a": 2}', b"nan"],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(RequestError, match="no exclusion manifest"):
        read_manifest(data, None)


def test_fields_and_digests_are_as_the_page_says():
    document = manifest()
    for changed in (
        {**document, "more": 1},
        {**document, "lists": [{**document["lists"][0], "digests": ["AB" * 32]}]},
        {**document, "lists": [{**document["lists"][0], "kind": "name"}]},
        {**document, "version": 0},
        {**document, "unlisted": -1},
    ):
        with pytest.raises(RequestError, match="no exclusion manifest"):
            read_manifest(written(sign(changed, SIGNING)), [PUBLIC])
    table = PAGE.read_text().partition("| field | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(document)


def test_a_list_that_nobody_can_read_is_no_empty_list():
    said = read_manifest(written(manifest()), None)
    with pytest.raises(RequestError, match="is missing"):
        Exclusions(said, [bytes(32)])
    assert Exclusions(said, [bytes(32), KEY]).excluded("id", [7]) == [True]


def test_keys_in_a_file():
    assert read_keys(f"{KEY.hex()}\n{GUARD.hex().upper()}\n".encode()) == [KEY, GUARD]
    for data in (b"", b"\n", b"abcd\n", KEY.hex().encode() + b" x", b"\xff\xfe"):
        with pytest.raises(RequestError, match="no key"):
            read_keys(data)


def test_a_dozen_lines_of_the_page_find_the_same(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found: dict = {}
    exec(compile(code, str(PAGE), "exec"), found)
    (tmp_path / "m.json").write_bytes(written(manifest()))
    (tmp_path / "k").write_text(f"{'00' * 32}\n{KEY.hex()}\n")
    ours = Exclusions(read_manifest(written(manifest()), None), [KEY])
    for kind, value in (("id", 7), ("id", 8), ("id", "7"), ("group", "alice"), ("group", "bob"), ("id", "alice")):
        theirs = found["excluded"](str(tmp_path / "m.json"), str(tmp_path / "k"), kind, value)
        assert [theirs] == ours.excluded(kind, [value]), (kind, value)
