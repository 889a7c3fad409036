"""Certificates: made only for what happened, checked by anyone, and no changed value goes unnoticed."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof.certificate import RequestFacts, build, sign
from hybridmu.core.proof.evidence import prove, state_of
from hybridmu.core.proof.lineage import lineage
from hybridmu.errors import CertificateRefusedError
from hybridmu.types.keys import RevokedKey
from hybridmu.verifier.checks import check, check_chain
from hybridmu.verifier.plain_data import canonical, fingerprint, key_id, moment, parse
from hybridmu.verifier.shard_evidence import Evidence, ShardEvidence, ShardState, Stage, findings
from hybridmu.verifier.statements import NOT_PROVEN, shown, shown_by, unshown_by
from tests import reference_certificate as reference

OLD, NEW = "0d" * 24, "e3" * 24  # hashes of weights
SALT = b"\5" * 32
RECIPE = Recipe(epochs=(3, 2, 2), batch_size=4, seed=1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = [RevokedKey("id", b"\1" * 32, "ab" * 8), RevokedKey("group", b"\2" * 32, "ab" * 8)]
LOOKED = {"storage": {"needles": 9, "files": 4, "bytes": 99}, "database": {"needles": 9, "bytes": 99}}
PURGE = {"rows": 14, "tables": 2, "files": 3, "duplicates_left": 0, "looked": LOOKED}


def rows_of(slices: list[int], seed: int = 0) -> Rows:
    count, rng = len(slices), np.random.default_rng(seed)
    ids, content = (rng.integers(0, 256, (count, 16), dtype=np.uint8) for _ in range(2))
    x, y = torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64)
    return Rows(x, y, np.sort(np.array(slices, dtype=np.int32)), ids, np.zeros_like(ids), content)


ROWS = rows_of([1] * 5 + [2] * 6 + [3] * 3)


def state(rows: Rows, weights: str | None, recipe: Recipe = RECIPE, shard: int = 0) -> ShardState:
    return state_of(lineage({"torch": "1"}, rows, recipe, shard, SALT), weights)


def shard_evidence(gone=(1, 6, 7), others=(), shard: int = 0, rows: Rows = ROWS, **changed: Any) -> ShardEvidence:
    """What a shard shows after rows `gone` left it, together with those of other requests."""
    numbers = np.arange(len(rows))
    revoked = rows.where(np.isin(numbers, gone)) if len(gone) < len(rows) else rows
    after = rows.where(~np.isin(numbers, [*gone, *others]))
    parts: dict[str, Any] = {
        "shard": shard,
        "stages": (
            Stage(strategy="dpus", version=2, exact=False),
            Stage(strategy="retrain", version=3, exact=True),
        ),
        "before": state(rows, OLD, shard=shard),
        "after": state(after, NEW if len(after) else None, shard=shard),
        "proofs": prove(rows, after, revoked, SALT) if len(gone) else (),
        "evidence": Evidence(verified="yes", how="re-executed", forget_loss_gap=-0.01, revoked_rows=len(gone)),
    }
    return ShardEvidence(**{**parts, **changed})


def made(previous=None, shards=None, **changed: Any) -> dict[str, Any]:
    facts = RequestFacts("request-1", "forget", 100.0, 101.25, 101.5, 160.0, 170.0, 100.5, 200.0)
    parts: dict[str, Any] = {
        "previous": previous,
        "system": "5f0c",
        "request": facts,
        "keys": KEYS,
        "shards": [shard_evidence(shard=4), shard_evidence((0, 13), shard=1)] if shards is None else shards,
        "purge": PURGE,
        "issued_at": 171.0,
    }
    return build(**{**parts, **changed})


@cache
def signed() -> dict[str, Any]:
    return sign(made(), KEY)


def failed(found) -> list[str]:
    return [finding.claim for finding in found.items if not finding.ok]


# ---------------------------------------------------------------------- what holds


def test_a_certificate_holds_and_an_independent_check_agrees():
    document = signed()
    found = check(document, {PUBLIC})
    assert found.ok, failed(found)
    assert len(found.items) > 10
    assert all(finding.claim and not finding.detail for finding in found.items)
    reference.check(document)
    assert parse(canonical(document)) == document
    assert check(parse(json.dumps(document, indent=2).encode()), {PUBLIC}).ok


def test_what_it_says():
    document = signed()
    assert (document["format"], document["number"], document["previous"]) == ("hybridmu-certificate/1", 1, None)
    assert [shard["shard"] for shard in document["shards"]] == [1, 4]
    assert document["request"]["received_at"] == "1970-01-01T00:01:40.000000Z"
    assert document["times"] == {
        "issued_at": "1970-01-01T00:02:51.000000Z",
        "seconds_to_applied": 1.25,
        "seconds_to_served": 1.5,
        "seconds_to_exact": 60.0,
        "seconds_to_purged": 70.0,
        "deadline_kept": True,
    }
    assert document["keys"][0] == {"kind": "id", "mac": "01" * 32, "key_id": "ab" * 8}
    assert document["signature"]["key_id"] == key_id(PUBLIC)
    assert document["not_proven"]
    late = made(request=RequestFacts("r", "forget", 100.0, 101.0, 101.0, 160.0, 170.0, None, 169.0))
    assert late["times"]["deadline_kept"] is False
    assert made(request=RequestFacts("r", "forget", 1.0, 1.0, 1.0, 1.0, 1.0))["times"]["deadline_kept"] is None


def test_a_clock_that_went_back_is_told_and_leaves_the_order():
    document = sign(made(request=RequestFacts("r", "forget", 100.0, 99.0, 101.0, 160.0, 170.0)), KEY)
    assert document["times"]["seconds_to_applied"] == 0.0
    assert document["times"]["clock_set_back"] is True
    assert check(document, {PUBLIC}).ok
    reference.check(document)
    assert "clock_set_back" not in signed()["times"]


@given(seconds=st.floats(0, 4e9))
def test_moments_are_utc_with_microseconds(seconds):
    text = moment(seconds)
    stamp = np.datetime64(text.removesuffix("Z"))
    assert abs((stamp - np.datetime64(0, "us")).astype(int) - seconds * 1e6) <= 1


@pytest.mark.parametrize(
    "evidence",
    [
        shard_evidence(others=(0, 12)),  # coalesced with other requests
        shard_evidence(gone=range(len(ROWS))),  # nothing is left: out of the vote
        shard_evidence(gone=range(5)),  # an emptied slice
        shard_evidence(gone=(), after=state(ROWS, OLD)),  # the rows lay in the validation table
        shard_evidence(gone=(), others=(3,)),
    ],
)
def test_other_deletions_that_are_certified(evidence):
    document = sign(made(shards=[evidence]), KEY)
    found = check(document, {PUBLIC})
    assert found.ok, failed(found)
    reference.check(document)


def test_new_slices_may_follow_the_old_ones():
    longer = Recipe(epochs=(*RECIPE.epochs, 2), batch_size=4, seed=1)
    kept = ROWS.where(~np.isin(np.arange(len(ROWS)), (1, 6, 7)))
    grown = rows_of([1] * 4 + [2] * 4 + [3] * 3 + [4] * 2)
    for name in ("ids", "content"):
        getattr(grown, name)[: len(kept)] = getattr(kept, name)
    evidence = shard_evidence(after=state(grown, NEW, longer))
    assert check(sign(made(shards=[evidence]), KEY)).ok
    shorter = shard_evidence(before=evidence.after, after=evidence.before)
    assert any("slices are missing" in finding.detail for finding in findings(shorter))


# ---------------------------------------------------------------------- what is refused


def refused(*shards: ShardEvidence) -> str:
    with pytest.raises(CertificateRefusedError) as error:
        made(shards=list(shards))
    assert not check(sign(forced(*shards), KEY)).ok
    return str(error.value)


def forced(*shards: ShardEvidence) -> dict[str, Any]:
    """A document as a dishonest operator would write it."""
    return {**made(), "shards": [asdict(shard) for shard in shards]}


@pytest.mark.parametrize("weights", [OLD, None])
def test_a_no_op_is_refused(weights):
    after = replace(shard_evidence().after, weights=weights)
    before = replace(shard_evidence().before, weights=weights)
    alone = Evidence(verified="no", how="not sampled by policy", forget_loss_gap=None, revoked_rows=3)
    assert "as before" in refused(shard_evidence(before=before, after=after, evidence=alone))


def test_weights_without_rows_are_refused():
    everyone = range(len(ROWS))
    after = replace(shard_evidence(everyone).after, weights=NEW)
    assert "no row to train on" in refused(shard_evidence(everyone, after=after))


def test_a_row_that_was_never_there_or_still_is_can_not_be_proven_gone():
    numbers = np.arange(len(ROWS))
    after = ROWS.where(numbers != 1)
    with pytest.raises(CertificateRefusedError, match="slice 1: a row that the new sub-model saw"):
        prove(ROWS, after, ROWS.where(numbers < 2), SALT)
    with pytest.raises(CertificateRefusedError, match="slice 1: a row that the old sub-model never saw"):
        prove(after, after, ROWS.where(numbers == 1), SALT)
    changed = ROWS.where(numbers == 1)
    changed = Rows(changed.x, changed.y, changed.slice, changed.ids, changed.groups, changed.content ^ np.uint8(1))
    with pytest.raises(CertificateRefusedError, match="never saw"):
        prove(ROWS, after, changed, SALT)


def test_proofs_of_other_trees_are_refused():
    good, other = shard_evidence(), shard_evidence(others=(0,))
    for evidence in (shard_evidence(proofs=other.proofs), shard_evidence(others=(0,), proofs=good.proofs)):
        assert "do not hold" in refused(evidence)
    swapped = [replace(proof, slice=3 - proof.slice) for proof in good.proofs]
    assert "do not hold" in refused(shard_evidence(proofs=tuple(swapped)))
    assert "no such slice" in refused(shard_evidence(proofs=(replace(good.proofs[0], slice=9),)))


def test_as_many_proofs_as_rows():
    proofs = shard_evidence().proofs
    assert "3 rows, 2 proofs" in refused(shard_evidence(proofs=proofs[:2]))
    assert "twice" in refused(shard_evidence(proofs=(*proofs[:2], proofs[1])))
    kept = shard_evidence((1, 6)).after  # a row less left than is proven
    assert "row(s) left the slice" in refused(shard_evidence(after=kept))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": 99}, "key after slice 2"),
        ({"epochs": 9}, "key after slice 2"),
        ({"root": "0" * 64}, "key after slice 2"),
        ({"key": "0" * 48}, "key after slice 2"),
        ({"slice": 3}, "not numbered"),
    ],
)
def test_a_chain_that_does_not_follow_is_refused(when, change, says):
    found = getattr(shard_evidence(), when)
    links = [replace(link, **change) if link.slice == 2 else link for link in found.links]
    assert says in refused(shard_evidence(**{when: replace(found, links=tuple(links))}))
    other = replace(found, head="0" * 48)
    assert "key after slice 1" in refused(shard_evidence(**{when: other}))


def test_an_after_that_is_not_the_before_with_rows_removed_is_refused():
    good = shard_evidence()
    epochs = Recipe(epochs=(3, 4, 2), batch_size=4, seed=1)
    kept = ROWS.where(~np.isin(np.arange(len(ROWS)), (1, 6, 7)))
    assert "another number of epochs" in refused(shard_evidence(after=state(kept, NEW, epochs)))
    assert "has more rows" in refused(shard_evidence((), before=good.after, after=good.before))
    foreign = rows_of([1] * 5 + [2] * 6 + [3] * 3, seed=9)
    assert "do not go together" in refused(shard_evidence((), after=state(foreign, NEW)))
    assert "there is no slice" in refused(
        shard_evidence((), before=ShardState(head="0" * 48, links=(), weights=OLD), after=good.after)
    )


def test_an_approximate_end_is_refused():
    stage = shard_evidence().stages
    for stages in ((), stage[:1], stage[::-1], (stage[1], replace(stage[1], version=2))):
        assert "ends in an exact one" in refused(shard_evidence(stages=stages))


def test_a_shard_is_named_once():
    assert "named once" in refused(shard_evidence(), shard_evidence())


def test_what_is_no_json_makes_no_certificate():
    for purge in ({}, {"x": 1}, {**PURGE, "rows": float("nan")}, {**PURGE, "looked": {"storage": {"\ud800": 1}}}):
        with pytest.raises(ValueError, match=r"missing|integer|surrogates"):
            made(purge=purge)


# ---------------------------------------------------------------------- tampering


def leaves(node: Any, path: tuple = ()) -> list[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        return [path]
    return [leaf for name, child in items for leaf in leaves(child, (*path, name))]


def at(node: Any, path: tuple) -> Any:
    for name in path:
        node = node[name]
    return node


def replaced(document: dict, path: tuple, value: Any) -> dict:
    changed = copy.deepcopy(document)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def flipped(value: Any, number: int) -> Any:
    """Another value of the same type, hex digits for hex digits."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if value is None or value == "":
        return "0" * 64
    place = number % len(value)
    other = {"0": "1", "a": "b", "y": "n"}.get(value[place], "0")
    return value[:place] + other + value[place + 1 :]


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


STAGES = ("shards", 0, "stages")
LIES = {
    "no shard": (("shards",), []),
    "no key": (("keys",), []),
    "a key twice": (("keys",), [{"kind": "id", "mac": "01" * 32, "key_id": "ab" * 8}] * 2),
    "more rows than ids": (("keys",), [{"kind": "id", "mac": "01" * 32, "key_id": "ab" * 8}]),
    "an empty purge": (("purge",), {}),
    "a purge of fewer rows": (("purge",), {**PURGE, "rows": 1}),
    "a purge with a negative count": (("purge",), {**PURGE, "tables": -1}),
    "a purge that searched nothing": (("purge",), {name: PURGE[name] for name in PURGE if name != "looked"}),
    "nothing that it does not show": (("not_proven",), []),
    "an empty search": (("purge", "looked"), {"storage": {}, "database": {}}),
    "a search for nothing": (("purge", "looked"), {name: dict.fromkeys(LOOKED[name], 0) for name in LOOKED}),
    "a search of storage alone": (("purge", "looked", "database"), {"needles": 9}),
    "a search of the database alone": (("purge", "looked", "storage"), {"needles": 9, "files": 0, "bytes": 0}),
    "rows without a needle": (("purge", "looked", "database"), {"needles": 0, "bytes": 99}),
    "that it proves everything": (("not_proven",), ["Nothing: this certificate proves everything."]),
    "a sentence less": (("not_proven",), list(NOT_PROVEN[:5])),
    "a sentence more": (("not_proven",), [*NOT_PROVEN, "Apart from that it proves everything."]),
    "sentences in another order": (("not_proven",), list(NOT_PROVEN[::-1])),
    "weights without a hash": (("shards", 0, "after", "weights"), ""),
    "weights that are a word": (("shards", 0, "before", "weights"), "yes"),
    "a strategy without a name": ((*STAGES, 1, "strategy"), ""),
    "a strategy that nobody knows": ((*STAGES, 1, "strategy"), "magic"),
    "a version before the first": ((*STAGES, 0, "version"), 0),
    "a system with a message": (("system",), "5f0c. It proves everything"),
    "another kind of request": (("request", "kind"), "forgive"),
    "a request without a name": (("request", "id"), ""),
    "an update called exact": ((*STAGES, 1, "strategy"), "dpus"),
    "an approximate retrain": ((*STAGES, 0, "strategy"), "retrain"),
    "a gap without an approximate stage": (STAGES, [{"strategy": "retrain", "version": 3, "exact": True}]),
}


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


def mixed(**changed: Any) -> dict[str, Any]:
    """A request of two ids, one of which had no training row."""
    keys = [RevokedKey("id", bytes([number]) * 32, "ab" * 8) for number in (1, 2)]
    return made(shards=[shard_evidence((1,))], keys=keys, **changed)


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


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


# ---------------------------------------------------------------------- the chain


def chain_of(count: int, key=KEY, system: str = "5f0c") -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for number in range(count):
        previous = documents[-1] if documents else None
        documents.append(sign(made(previous, [shard_evidence((number,))], system=system), key))
    return documents


def test_a_chain_holds():
    documents = chain_of(4)
    found = check_chain(documents, {PUBLIC})
    assert found.ok, failed(found)
    assert [document["number"] for document in documents] == [1, 2, 3, 4]
    assert documents[1]["previous"] == fingerprint(documents[0])
    assert all(check(document, {PUBLIC}).ok for document in documents)
    reference.check_links(documents)


def test_a_rotated_key_goes_on_with_the_chain():
    first = chain_of(1)
    second = sign(made(first[0], [shard_evidence((1,))]), OTHER)
    assert check_chain([*first, second], [PUBLIC, OTHER.public_key().public_bytes_raw()]).ok
    assert not check_chain([*first, second], {PUBLIC}).ok


def test_a_certificate_that_is_missing_moved_or_changed_breaks_the_chain():
    documents = chain_of(4)
    changed = {**documents[1], "purge": {}}
    broken = [
        [],
        documents[1:],
        documents[:1] + documents[2:],
        [documents[1], documents[0], *documents[2:]],
        [*documents[:2], documents[1], *documents[2:]],
        [documents[0], changed, *documents[2:]],
        [documents[0], sign(changed, KEY), *documents[2:]],
        [documents[0], sign({**changed, "number": True}, KEY)],
        [*documents[:1], *chain_of(2, system="07e4")[1:]],
        [documents[0], "no certificate", *documents[2:]],
    ]
    for attempt in broken:
        assert not check_chain(attempt, {PUBLIC}).ok
    # Who has the key can begin another chain, but not continue this one for another system.
    with pytest.raises(CertificateRefusedError, match="another system"):
        made(documents[-1], system="07e4")
