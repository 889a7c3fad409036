"""Certificates that were changed or forged: no changed value goes unnoticed, whoever holds the key."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybridmu.core.proof.certificate import sign
from hybridmu.errors import CertificateRefusedError
from hybridmu.verifier.checks import check, check_chain
from hybridmu.verifier.plain_data import canonical, key_id, moment, parse
from hybridmu.verifier.shard_evidence import Evidence
from hybridmu.verifier.statements import NOT_PROVEN, shown, shown_by, unshown_by
from tests import reference_certificate as reference
from tests.sample_certificates import (
    KEY,
    KEYS,
    LIES,
    LOOKED,
    OLD,
    OTHER,
    PUBLIC,
    PURGE,
    ROWS,
    at,
    failed,
    flipped,
    json_values,
    leaves,
    made,
    mixed,
    refused,
    replaced,
    shard_evidence,
    signed,
    state,
)


@settings(max_examples=400)
@given(data=st.data())
def test_no_value_can_be_changed(data):
    document = signed()
    path = data.draw(st.sampled_from(leaves(document)))
    value = flipped(at(document, path), data.draw(st.integers(0, 200)))
    assume(value != at(document, path))
    changed = replaced(document, path, value)
    assert not check(changed).ok
    with pytest.raises((AssertionError, ValueError, KeyError)):
        reference.check(changed)


def test_every_value_in_turn():
    document = signed()
    for path in leaves(document):
        assert not check(replaced(document, path, flipped(at(document, path), 0))).ok, path
        assert not check(replaced(document, path, [])).ok, path


# Values that follow from others: not even who holds the signing key can change one alone.
BOUND = ("before", "after", "proofs")


@settings(max_examples=400)
@given(data=st.data())
def test_not_even_the_signer_can_change_what_follows_from_arithmetic(data):
    document = signed()
    bound = [path for path in leaves(document) if path[0] == "shards" and path[2] in BOUND and path[-1] != "weights"]
    bound += [path for path in leaves(document) if path[0] == "times" and path[1] != "issued_at"]
    bound += [("shards", 0, "evidence", "revoked_rows"), ("number",), ("format",), ("shards", 1, "shard")]
    path = data.draw(st.sampled_from(bound))
    value = flipped(at(document, path), data.draw(st.integers(0, 200)))
    if path == ("shards", 1, "shard"):
        value = at(document, ("shards", 0, "shard"))
    assume(value != at(document, path))
    found = check(sign(replaced(document, path, value), KEY), {PUBLIC})
    assert not found.ok, path


@settings(max_examples=400)
@given(data=st.data())
def test_parts_can_not_be_left_out_added_or_repeated(data):
    document = signed()
    nodes = sorted({path[:cut] for path in leaves(document) for cut in range(1, len(path) + 1)}, key=str)
    nodes = [path for path in nodes if path[0] != "not_proven" and path[:2] != ("purge", "looked")]
    path = data.draw(st.sampled_from(nodes))
    changed = copy.deepcopy(document)
    parent = at(changed, path[:-1])
    how = data.draw(st.sampled_from(["drop", "add", "null", "wrap"]))
    if how == "drop":
        del parent[path[-1]]
    elif how == "null":
        assume(parent[path[-1]] is not None)
        parent[path[-1]] = None
    elif how == "wrap":
        parent[path[-1]] = [parent[path[-1]]]
    else:
        parent.append(copy.deepcopy(parent[-1])) if isinstance(parent, list) else parent.update(extra=1)
    assert not check(changed).ok
    # Who signs again may say other things of the world, but not in another form.
    listed = isinstance(parent, list) and how in {"drop", "add"} and path[-2] in {"keys", "stages", "shards"}
    optional = how == "null" and path[-1] in {"planned_at", "weights", "forget_loss_gap"}
    newer = how == "drop" and path[-3:] == ("before", "links", 2)  # as if that slice had come with new data
    if path[0] != "signature" and not listed and not optional and not newer:
        assert not check(sign(changed, KEY), {PUBLIC}).ok, (path, how)


def moved(field: str, seconds: int) -> dict[str, Any]:
    """A signed document whose request has another moment, and durations that follow from it."""
    facts = {"received_at": 100.0, "planned_at": 100.5, "applied_at": 101.25, "served_at": 101.5}
    facts |= {"exact_at": 160.0, "purged_at": 170.0}
    document = copy.deepcopy(signed())
    document["request"][field] = moment(facts[field] + seconds)
    received = facts["received_at"] + (seconds if field == "received_at" else 0)
    for name in ("applied", "served", "exact", "purged"):
        at = facts[f"{name}_at"] + (seconds if field == f"{name}_at" else 0)
        document["times"][f"seconds_to_{name}"] = at - received
    document["times"]["deadline_kept"] = facts["purged_at"] + (seconds if field == "purged_at" else 0) <= 200.0
    return sign(document, KEY)


@pytest.mark.parametrize(
    ("field", "seconds", "says"),
    [
        ("received_at", 50, "planned before received"),
        ("planned_at", 50, "applied before planned"),
        ("applied_at", 30, "served before applied"),
        ("served_at", -30, "served before applied"),
        ("exact_at", -70, "exact before applied"),
        ("exact_at", 30, "purged before exact"),
        ("purged_at", -90, "purged before served"),
        ("purged_at", 30, "issued before purged"),
    ],
)
def test_times_that_can_not_be_are_refused(field, seconds, says):
    found = check(moved(field, seconds), {PUBLIC})
    assert says in next(finding.detail for finding in found.items if not finding.ok)
    with pytest.raises(AssertionError):
        reference.check(moved(field, seconds))


@pytest.mark.parametrize("lie", LIES)
def test_a_signer_can_not_say_what_the_document_itself_denies(lie):
    path, value = LIES[lie]
    assert check(signed(), {PUBLIC}).ok
    changed = sign(replaced(signed(), path, value), KEY)
    assert not check(changed, {PUBLIC}).ok
    with pytest.raises((AssertionError, KeyError, ValueError)):
        reference.check(changed)


def others(value: Any) -> list[Any]:
    """Values that somebody might put in the place of one."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, value - 1, 0, 10**9, None]
    if isinstance(value, float):
        return [value + 1, 0.0, -1.0]
    if isinstance(value, str):
        return ["", f"{value[:-1]}0", "yes", "2090-01-01T00:00:00.000000Z"]
    if isinstance(value, list):
        return [[], [*value, *value[-1:]], value[:-1], value[::-1]]
    return [{}] if isinstance(value, dict) else [0, "yes"]


def test_the_independent_check_agrees_on_whatever_a_signer_says():
    document = signed()
    nodes = {path[:cut] for path in leaves(document) for cut in range(1, len(path) + 1)}
    for path in sorted((path for path in nodes if path[0] != "signature"), key=str):
        for value in others(at(document, path)):
            changed = sign(replaced(document, path, value), KEY)
            try:
                reference.check(changed)
            except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
                agreed = False
            else:
                agreed = True
            assert check(changed).ok == agreed, (path, value)


def test_weights_that_did_not_change_need_a_new_training():
    """A removal may change no bit; that it was one is shown by the same training without the rows alone."""
    same = shard_evidence().before.weights
    after = replace(shard_evidence().after, weights=same)
    stages = shard_evidence().stages[1:]
    known = {"after": after, "stages": stages}
    measured = {"how": "trained anew", "forget_loss_gap": None, "revoked_rows": 3}
    compared = shard_evidence(**known, evidence=Evidence(verified="yes", **measured))
    document = sign(made(shards=[compared]), KEY)
    assert check(document, {PUBLIC}).ok
    reference.check(document)
    assert any("no influence" in sentence for sentence in shown([compared], ["id"]))
    assert "as before" in refused(shard_evidence(**known, evidence=Evidence(verified="no", **measured)))


def test_a_request_without_training_rows_says_that_it_proves_nothing():
    document = sign(made(shards=[shard_evidence(gone=(), after=state(ROWS, OLD))]), KEY)
    assert check(document, {PUBLIC}).ok
    assert "There is no proof" in document["not_proven"][-1]
    assert shown_by(document)[0].startswith("No proof of a removal")
    assert "0 of 2 keys have a proof." in shown_by(document)
    assert "There is no proof" not in signed()["not_proven"][-1]


def test_a_key_without_a_proof_is_told():
    document = sign(mixed(), KEY)
    assert check(document, {PUBLIC}).ok
    reference.check(document)
    assert "1 of 2 keys have a proof." in shown_by(document)
    assert "1 of 2 keys have a proof." in document["not_proven"][-1]
    assert unshown_by(document) == document["not_proven"]
    grouped = sign(made(shards=[shard_evidence((1,))]), KEY)
    assert "1 proof(s) for 2 keys, groups among them" in shown_by(grouped)[1]
    assert "of how many of the 2 keys" in grouped["not_proven"][-1]
    reference.check(grouped)
    whole = sign(made(keys=KEYS[:1], shards=[shard_evidence((1,))]), KEY)
    assert "1 of 1 keys have a proof." in shown_by(whole)
    assert whole["not_proven"] == list(NOT_PROVEN)


@pytest.mark.parametrize("made_by", [mixed, made, lambda: made(shards=[shard_evidence((), after=state(ROWS, OLD))])])
def test_what_earlier_releases_did_not_say_is_said_when_it_is_checked(made_by):
    """They wrote six sentences at most, whatever the evidence; their certificates hold."""
    now = made_by()
    earlier = sign({**now, "not_proven": list(NOT_PROVEN)}, KEY)
    assert check(earlier, {PUBLIC}).ok
    reference.check(earlier)
    assert unshown_by(earlier) == now["not_proven"]
    assert len(unshown_by(earlier)) == len(NOT_PROVEN) + 1


def test_a_purge_that_was_begun_again_counts_no_table_and_that_is_told():
    again = sign(made(purge={**PURGE, "tables": 0, "files": 0}), KEY)
    assert check(again, {PUBLIC}).ok
    reference.check(again)
    assert "begun again" in unshown_by(again)[-1]
    assert "begun again" not in unshown_by(signed())[-1]
    rowless = {**PURGE, "rows": 0, "tables": 0, "looked": {**LOOKED, "database": {"needles": 0, "bytes": 99}}}
    none = sign(made(shards=[shard_evidence((), after=state(ROWS, OLD))], purge=rowless), KEY)
    assert check(none, {PUBLIC}).ok
    reference.check(none)


@pytest.mark.parametrize(
    "looked", [{"storage": {}, "database": {}}, {name: dict.fromkeys(LOOKED[name], 0) for name in LOOKED}]
)
def test_no_certificate_is_made_of_a_purge_that_searched_nothing(looked):
    with pytest.raises(CertificateRefusedError, match="none: files of storage"):
        made(purge={**PURGE, "looked": looked})


@settings(max_examples=200)
@given(value=json_values, data=st.data())
def test_nothing_makes_check_raise(value, data):
    assert not check(value).ok
    assert not check_chain([value]).ok
    document = signed()
    path = data.draw(st.sampled_from(leaves(document)))
    cut = data.draw(st.integers(1, len(path)))
    assume(at(document, path[:cut]) != value)
    assert not check(replaced(document, path[:cut], value)).ok


def test_deep_nesting_and_doubled_keys():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert not check(deep).ok
    for data in (
        b'{"a":1,"a":2}',
        b'{"x":{"a":1,"b":2,"a":1}}',
        b"[" * 100_000,
        b"\xff",
        b"{",
        b"",
        b"[NaN]",
        b'"\\ud800"',
    ):
        with pytest.raises(ValueError, match=r".+"):
            parse(data)
    text = canonical(signed()).replace(b'"number":1', b'"number":7,"number":1')
    with pytest.raises(ValueError, match="twice"):
        parse(text)


def test_who_signed():
    document = sign(made(), OTHER)
    assert check(document).ok
    assert failed(check(document, {PUBLIC})) == [f"key {document['signature']['key_id']} is a trusted one"]
    assert not check(signed(), set()).ok
    assert check(signed(), [OTHER.public_key().public_bytes_raw(), PUBLIC]).ok
    borrowed = {**document, "signature": {**document["signature"], "public_key": PUBLIC.hex()}}
    assert not check(borrowed).ok
    renamed = {**document, "signature": {**document["signature"], "key_id": key_id(PUBLIC)}}
    assert not check(renamed).ok
    assert sign(document, KEY) == signed()
    assert not check(made()).ok  # unsigned
