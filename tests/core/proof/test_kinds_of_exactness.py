"""Kinds of exactness in a certificate: bits of a training, whole-number sums, and strategies of plugins."""

from __future__ import annotations

import pytest

from hybridmu.core.proof.certificate import sign
from hybridmu.errors import CertificateRefusedError
from hybridmu.verifier.checks import check
from hybridmu.verifier.shard_evidence import Evidence, Stage
from hybridmu.verifier.statements import shown_by
from tests import reference_certificate as reference
from tests.sample_certificates import KEY, PUBLIC, failed, made, shard_evidence

SUBTRACTED = (Stage(strategy="subtract", version=2, exact=True),)
UNMEASURED = Evidence(verified="no", how="not sampled by policy", forget_loss_gap=None, revoked_rows=3)


@pytest.mark.parametrize("exactness", [None, "bits", "integers"])
def test_a_certificate_says_what_its_exactness_is_of(exactness):
    shard = shard_evidence(exactness=exactness)
    document = sign(made(shards=[shard]), KEY)
    assert ("exactness" in document["shards"][0]) == (exactness is not None)
    assert check(document, {PUBLIC}).ok
    reference.check(document)
    said = " ".join(shown_by(document))
    assert ("whole-number sums" in said) == (exactness == "integers")


def test_a_subtraction_is_of_integers():
    good = {"stages": SUBTRACTED, "evidence": UNMEASURED}
    document = sign(made(shards=[shard_evidence(**good, exactness="integers")]), KEY)
    assert check(document, {PUBLIC}).ok
    reference.check(document)
    with pytest.raises(CertificateRefusedError, match="exactness is called that of bits"):
        made(shards=[shard_evidence(**good, exactness="bits")])
    document["shards"][0]["exactness"] = "bits"
    forged = sign(document, KEY)
    assert failed(check(forged, {PUBLIC})) == ["shard 0: what was measured fits what was done"]
    with pytest.raises(AssertionError):
        reference.check(forged)
    document["shards"][0]["exactness"] = "floats"
    assert not check(sign(document, KEY), {PUBLIC}).ok


def test_an_exact_strategy_of_a_plugin_is_certified_where_the_plugin_is(monkeypatch):
    stages = (Stage(strategy="own-exact", version=2, exact=True),)
    shard = shard_evidence(stages=stages, evidence=UNMEASURED)
    with pytest.raises(CertificateRefusedError, match="an update is called exact"):
        made(shards=[shard])
    monkeypatch.setattr("hybridmu.core.proof.certificate.exact_strategies", lambda: {"own-exact"})
    document = sign(made(shards=[shard]), KEY)
    assert failed(check(document, {PUBLIC})) == ["shard 0: what was measured fits what was done"]
