"""Digests of those whom a version is without, in the ledger: also after cancelling, readmission and a restore."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

import hybridmu
from hybridmu.core.proof.exclusions import exclusion_digest
from hybridmu.store.dataset.key_lookup import RawKey
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.exclusion_digests import ExclusionDigests
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.types import NamedKey, Origin, RequestState, ResolvedKey, RowKey
from tests.support import rows_of, settings_dict


@pytest.fixture
def keyring(tmp_path):
    return Keyring(hybridmu.Settings.parse(settings_dict(tmp_path)))


@pytest.fixture
def digests(engine):
    return ExclusionDigests(engine)


def forget(ledger, keyring, *values, listed=True, **options):
    """Accept a request for ids that have one row each."""
    stamp, keys = keyring.stamp(), []
    for value in values:
        digest = int(value).to_bytes(16, "big")
        name, mac = stamp("id", value)
        keys.append(ResolvedKey("id", digest, 0, 1, (RowKey(digest),), mac, name))
    known = keyring.exclusions("id", values) if listed else {}
    return ledger.accept(keys, listed=known, **options).request_id


def reach(engine, request_id, version, state=RequestState.PURGED):
    with engine.begin() as connection:
        mine = t.requests.c.request_id == request_id
        connection.execute(t.requests.update().where(mine).values(state=state, version_after=version))


def expected(keyring, *values):
    """Return the digests of ids by the newest key, made here."""
    (name, key) = [*keyring.exclusion_keys().items()][-1]
    return {(name, "id"): sorted(exclusion_digest(key, "id", value) for value in values)}


def found(digests, version):
    listed = digests.of_version(version)
    return {name: sorted(some) for name, some in listed.digests.items()}, listed.unlisted, listed.later


def test_each_version_has_what_it_is_without(ledger, engine, keyring, digests):
    assert found(digests, 1) == ({}, 0, 0)
    first, second = forget(ledger, keyring, 1, 2), forget(ledger, keyring, 3)
    third = forget(ledger, keyring, 4)
    reach(engine, first, 2)
    reach(engine, second, 3, RequestState.APPLIED)
    assert found(digests, 1) == ({}, 0, 4)
    assert found(digests, 2) == (expected(keyring, 1, 2), 0, 2)
    assert found(digests, 3) == (expected(keyring, 1, 2, 3), 0, 1)
    reach(engine, third, None, RequestState.FAILED)
    assert found(digests, 3) == (expected(keyring, 1, 2, 3), 0, 1), "a failed request is in no version"


def test_what_was_taken_back_or_readmitted_is_in_none(ledger, engine, keyring, digests):
    kept, gone = forget(ledger, keyring, 1, 2), forget(ledger, keyring, 3)
    ledger.cancel(gone)
    reach(engine, kept, 2)
    assert found(digests, 2) == (expected(keyring, 1, 2), 0, 0)
    Guard(engine, keyring).readmit([RawKey("id", "1", 1)], "a mistake", "dpo")
    assert found(digests, 2) == (expected(keyring, 2), 0, 0)


def test_what_two_asked_for_stays_when_one_takes_it_back(ledger, engine, keyring, digests):
    first = forget(ledger, keyring, 1, caller="a")
    second = forget(ledger, keyring, 1, caller="b")
    ledger.cancel(first)
    reach(engine, second, 2)
    assert found(digests, 2) == (expected(keyring, 1), 0, 0)


def test_an_entry_of_an_earlier_release_is_counted_and_gets_a_digest_when_it_is_asked_again(
    ledger, engine, keyring, digests
):
    reach(engine, forget(ledger, keyring, 1, 2, listed=False), 2)
    assert found(digests, 2) == ({}, 2, 0)
    forget(ledger, keyring, 1, caller="again")
    assert found(digests, 2) == (expected(keyring, 1), 1, 0)
    before = rows_of(engine, t.guard)
    forget(ledger, keyring, 1, caller="and again")
    assert rows_of(engine, t.guard) == before


def test_rows_that_a_correction_brings_back_are_in_none(ledger, engine, keyring, digests):
    reach(engine, forget(ledger, keyring, 1), 2)
    with engine.begin() as connection:
        connection.execute(t.guard.update().values(returns=True))
    assert found(digests, 2) == ({}, 0, 0)


def test_each_guard_key_has_a_list_of_its_own(ledger, engine, keyring, digests):
    reach(engine, forget(ledger, keyring, 1), 2)
    old = expected(keyring, 1)
    keyring.rotate("guard", 1)
    reach(engine, forget(ledger, keyring, 2), 3)
    assert found(digests, 3) == (old | expected(keyring, 2), 0, 0)
    assert len(keyring.exclusion_keys()) == 2


def test_what_a_linked_model_tells_is_listed_too(ledger, engine, keyring, digests):
    name, mac = keyring.mac("id", 5)
    (listed,) = keyring.exclusions("id", [5]).values()
    with engine.begin() as connection:
        connection.execute(t.serving.insert().values(id=1, version=2))
    ledger.accept([], absent=[NamedKey("id", b"", mac, name, listed)], listed={mac: listed},
                  origin=Origin("ab", "other", "r-1"))  # fmt: skip
    assert found(digests, 2) == (expected(keyring, 5), 0, 0)


def test_an_entry_without_its_request_counts_as_forgotten(ledger, engine, keyring, digests):
    forget(ledger, keyring, 1)
    with engine.begin() as connection:
        connection.execute(sa.delete(t.requests))
    assert found(digests, 1) == (expected(keyring, 1), 0, 0)
