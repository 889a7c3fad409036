"""Certificates: made only for what happened, and checked by anyone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof.certificate import RequestFacts, sign
from hybridmu.core.proof.evidence import prove
from hybridmu.errors import CertificateRefusedError
from hybridmu.verifier.checks import check
from hybridmu.verifier.plain_data import canonical, key_id, moment, parse
from hybridmu.verifier.shard_evidence import Evidence, ShardState, findings
from tests import reference_certificate as reference
from tests.sample_certificates import (
    KEY,
    NEW,
    OLD,
    PUBLIC,
    PURGE,
    RECIPE,
    ROWS,
    SALT,
    failed,
    made,
    refused,
    rows_of,
    shard_evidence,
    signed,
    state,
)


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
