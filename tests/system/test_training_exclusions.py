"""Exclusion manifests of a real system: each version's, from the calls of people to a clean copy."""

from __future__ import annotations

import json

import pytest

from hybridmu.core.proof.exclusions import Exclusions, read_manifest
from hybridmu.errors import RequestError
from hybridmu.store.keyring import Keyring
from tests.scenes.linked_models import family
from tests.support import local_system, make_table


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """One in which id 3 and then person p1 were forgotten; id 5 waits."""
    folder = tmp_path_factory.mktemp("exclusions")
    make_table(folder / "train.parquet", 60, groups=12)
    data = {"train": str(folder / "train.parquet"), "group": "person"}
    with local_system(folder, data=data, sisa={"shards": 2, "slices": 2, "epochs": 1}) as made:
        made.train()
        for named in ({"ids": [3]}, {"groups": ["p1"]}):
            made.forget(**named, strategy="retrain")
            made.run(until_idle=True)
        made.forget(ids=[5], strategy="retrain")
        yield made


def opened(system, version=None):
    document = system.exclusions(version)
    public = [*system.keyring.public_keys().values()]
    return Exclusions(read_manifest(json.dumps(document).encode(), public), [*system.keyring.exclusion_keys().values()])


def test_each_version_tells_whom_it_is_without(system):
    newest = opened(system)
    assert (newest.manifest.version, newest.manifest.later, newest.manifest.unlisted) == (3, 1, 0)
    assert newest.excluded("id", [3, 5, 4]) == [True, False, False]
    assert newest.excluded("group", ["p1", "p2"]) == [True, False]
    second = opened(system, 2)
    assert (second.excluded("id", [3]), second.excluded("group", ["p1"]), second.manifest.later) == ([True], [False], 2)
    first = opened(system, 1)
    assert (first.manifest.lists, first.manifest.later) == ((), 3)
    assert (newest.manifest.columns.id.type, newest.manifest.columns.group.name) == ("integer", "person")


def test_there_is_none_of_a_version_that_is_not_there(system):
    with pytest.raises(RequestError, match="no such version"):
        system.exclusions(4)


def test_it_is_of_the_system_that_signs_its_certificates(system):
    document, certificate = system.exclusions(), system.certificate(system.requests()[0]["request_id"])
    assert document["system"] == certificate["system"]
    assert document["signature"]["public_key"] == certificate["signature"]["public_key"]
    macs = {key["mac"] for key in certificate["keys"]}
    assert macs & {each for one in document["lists"] for each in one["digests"]} == set(), "the two can't be joined"


def test_what_one_model_forgets_its_linked_model_lists(tmp_path):
    with family(tmp_path, "first", "second") as (models, ids):
        models["first"].forget(ids=[ids[2]])
        models.run()
        models["first"].link(models["second"].settings)
        models["first"].forget(ids=[ids[1]])
        models.run()
        for name in ("first", "second"):
            found = opened(models[name])
            assert found.excluded("id", [ids[0], ids[1], ids[2]]) == [False, True, True], name
            assert found.manifest.unlisted == 0


def test_the_journal_keeps_the_digest_for_a_ledger_that_is_restored(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    with local_system(tmp_path, sisa={"shards": 2, "slices": 2, "epochs": 1}) as system:
        system.train()
        system.forget(ids=[3], strategy="retrain")
        system.run(until_idle=True)
        entries = [entry for _, entry in system.database.journal(system.session.storage)._files.entries()]
        (row,) = [row for entry in entries for row in entry["guard"]]
        (digest,) = Keyring(system.settings).exclusions("id", [3]).values()
        assert row["listed"] == {"hex": digest.hex()}
