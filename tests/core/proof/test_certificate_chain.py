"""Chains of certificates: none can be missing, moved or changed."""

from __future__ import annotations

import pytest

from hybridmu.core.proof.certificate import sign
from hybridmu.errors import CertificateRefusedError
from hybridmu.verifier.checks import check, check_chain
from hybridmu.verifier.plain_data import fingerprint
from tests import reference_certificate as reference
from tests.sample_certificates import KEY, OTHER, PUBLIC, chain_of, failed, made, shard_evidence


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
