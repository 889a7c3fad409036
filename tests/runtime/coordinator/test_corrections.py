"""Corrections: the old rows are forgotten and purged, then the corrected ones come in."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.errors import AdmissionError, ConflictError, HybridMUError, RequestError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger import tables as t
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check
from tests.support import rows_of
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


@pytest.fixture
def world(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 40, string_ids=True, groups=5)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=5)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield system, config, table, ids


def write_corrected(table, ids):
    """Write whole rows of some ids, with another feature and label."""
    made = pq.read_table(table)
    made = made.filter(pc.is_in(made["id"], pa.array(ids)))
    flipped = pc.if_else(pc.equal(made["label"], "yes"), "no", "yes")
    made = made.set_column(made.column_names.index("label"), "label", flipped)
    made = made.set_column(made.column_names.index("a"), "a", pc.add(made["a"], pa.scalar(1.0, pa.float32())))
    path = table.with_name("corrected.parquet")
    pq.write_table(made, path)
    return path


def without(table, ids):
    """Write the first table without some rows."""
    made = pq.read_table(table)
    path = table.with_name("without.parquet")
    pq.write_table(made.filter(pc.invert(pc.is_in(made["id"], pa.array(ids)))), path)
    return path


def test_corrected_rows_replace_the_old_ones_bit_for_bit(world):
    system, config, table, ids = world
    chosen = ids[:4]
    path = write_corrected(table, chosen)
    report = system.correct(path, caller="dpo", wait=True)
    new = report["ingestion"]
    assert (report["state"], report["keys"], new["state"], new["rows"]) == ("PURGED", 4, "SERVED", 4)
    assert new["after_request"] == report["request_id"]
    assert report["purged_at"] <= new["applied_at"]
    assert_equal_to_reference(system, config, without(table, chosen), later=[(path, 1, new["epochs"])])
    assert not system.guard.any()  # they are not forgotten: they came back
    (certificate,) = Certificates(system.site.storage).all()
    assert (certificate["request"]["kind"], len(certificate["keys"])) == ("correct", 4)
    assert check(certificate).ok
    # They are rows like all others.
    assert system.forget(ids=chosen[:2], strategy="retrain", wait=True)["keys"] == 2
    system.run(until_idle=True)
    left = table.with_name("left.parquet")
    made = pq.read_table(path)
    pq.write_table(made.filter(pc.invert(pc.is_in(made["id"], pa.array(chosen[:2])))), left)
    assert_equal_to_reference(system, config, without(table, chosen), later=[(left, 1, new["epochs"])])
    assert system.forget(ids=chosen[:1])["state"] == "PURGED"


@pytest.mark.slow
def test_the_rows_come_in_only_after_the_purge(world):
    system, _, table, ids = world
    system.hold("a court", caller="dpo")
    report = system.correct(write_corrected(table, ids[:2]))
    system.run(until_idle=True)
    assert system.report(report["request_id"])["state"] == "SERVED"
    assert system.ingestion(report["ingestion"]["ingest_id"])["generation"] is None
    other = system.ingest(write_corrected(table, ids[:2]))  # nor by another way
    assert (other["rows"], other["skipped"]) == (0, 2)
    system.lift(1)
    system.wait_for_rows(report["ingestion"]["ingest_id"])
    assert system.report(report["request_id"])["state"] == "PURGED"


@pytest.mark.slow
def test_what_is_forgotten_meanwhile_does_not_come_back(world):
    system, config, table, ids = world
    path = write_corrected(table, ids[:3])
    report = system.correct(path)
    forgotten = system.forget(ids=[ids[0]])["request_id"]
    assert list(system.ledger.relies_on(forgotten)) == [report["request_id"]]  # its removal is under way
    system.wait_for_rows(report["ingestion"]["ingest_id"])
    new = system.ingestion(report["ingestion"]["ingest_id"])
    assert (new["rows"], new["skipped"]) == (2, 1)
    left = table.with_name("left.parquet")
    made = pq.read_table(path)
    pq.write_table(made.filter(pc.not_equal(made["id"], ids[0])), left)
    assert_equal_to_reference(system, config, without(table, ids[:3]), later=[(left, 1, new["epochs"])])
    assert system.forget(ids=[ids[0]])["state"] == "PURGED"
    system.readmit(ids=[ids[0]], reason="so be it")


@pytest.mark.slow
def test_what_is_forgotten_between_purge_and_return_does_not_come_back(world):
    system, _, table, ids = world
    report = system.correct(write_corrected(table, ids[:3]))
    new = report["ingestion"]["ingest_id"]
    growth = system.session.coordination.acquire()._growth
    growth._not_before[new] = float("inf")
    system.run(until_idle=True)
    assert system.report(report["request_id"])["state"] == "PURGED"
    assert system.ingestion(new)["state"] == "RECEIVED"
    assert system.forget(ids=[ids[0]])["state"] == "PURGED"
    growth._not_before.clear()
    system.wait_for_rows(new)
    assert (system.ingestion(new)["rows"], system.ingestion(new)["skipped"]) == (2, 1)


def test_a_correction_can_be_taken_back(world):
    system, config, table, ids = world
    report = system.correct(write_corrected(table, ids[:3]), key="k")
    system.cancel(report["request_id"])
    assert not system.guard.any()
    new = system.ingestion(report["ingestion"]["ingest_id"])
    assert (new["state"], new["reason"]) == ("FAILED", "its correction was cancelled")
    system.run(until_idle=True)
    assert system.site.storage.list("incoming") == []
    assert_equal_to_reference(system, config, table)
    with pytest.raises(ConflictError, match="cancelled"):
        system.correct(write_corrected(table, ids[:3]), key="k")
    with pytest.raises(HybridMUError, match="failed"):
        system.wait_for_rows(new["ingest_id"])


@pytest.mark.slow
def test_the_same_key_names_the_same_correction(world):
    system, _, table, ids = world
    path = write_corrected(table, ids[:3])
    first = system.correct(path, key="k", wait=True)
    again = system.correct(path, key="k")
    assert again["request_id"] == first["request_id"]
    assert again["ingestion"]["ingest_id"] == first["ingestion"]["ingest_id"]
    with pytest.raises(ConflictError):
        system.correct(write_corrected(table, ids[:2]), key="k")
    assert len(system.ingests()) == 1


def test_unknown_or_revoked_rows_are_refused_as_a_whole(world):
    system, _, table, ids = world
    made = pq.read_table(write_corrected(table, ids[:2]))
    strange = made.set_column(0, "id", pa.array([ids[0], "row-999"]))
    path = table.with_name("strange.parquet")
    pq.write_table(strange, path)
    with pytest.raises(RequestError, match="1 unknown"):
        system.correct(path)
    person = next(p for p in pq.read_table(table)["user"].to_pylist() if p)
    theirs = [i for i, p in zip(ids, pq.read_table(table)["user"].to_pylist(), strict=True) if p == person]
    system.forget(groups=[person])
    moved = pq.read_table(write_corrected(table, [*theirs[:1], *[i for i in ids if i not in theirs][:1]]))
    moved = moved.set_column(moved.column_names.index("user"), "user", pa.array(["u9", "u9"]))
    pq.write_table(moved, path)
    with pytest.raises(RequestError, match="revoked already"):
        system.correct(path)
    with pytest.raises(RequestError, match="all of these ids are forgotten"):
        system.correct(write_corrected(table, theirs))
    assert system.ingests() == []
    assert len(system.ledger.requests()) == 1
    assert len(rows_of(system.database.engine, t.guard)) == 1


def test_rows_of_a_test_table_are_not_corrected(tmp_path):
    table, test = tmp_path / "train.parquet", tmp_path / "test.parquet"
    ids = write_table(table, 20, string_ids=True, groups=0)
    others = write_table(test, 30, string_ids=True, groups=0, seed=1)  # some of the same ids
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    config["data"]["test"] = str(test)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        for source, row in ((test, others[-1]), (table, ids[0])):
            with pytest.raises(RequestError, match="1 row"):
                system.correct(write_corrected(source, [row]))
        new = tmp_path / "new.parquet"
        write_table(new, 10, string_ids=True, groups=0, seed=2, start=20)  # their ids are in the test table alone
        assert system.ingest(new, wait=True)["rows"] == 10


def test_limits_hold_for_corrections(world):
    system, config, table, ids = world
    system.close()
    with hybridmu.connect({**config, "admission": {"keys_per_request": 2}}, executor="local") as limited:
        with pytest.raises(AdmissionError, match="too many rows"):
            limited.correct(write_corrected(table, ids[:3]))
        assert limited.correct(write_corrected(table, ids[:2]))["state"] == RequestState.RECEIVED


def test_a_correction_of_everything_is_refused(world):
    system, _, table, ids = world
    with pytest.raises(HybridMUError, match="no row to train on"):
        system.correct(write_corrected(table, ids))
    assert system.ingests() == []


def test_readmission_waits_for_the_end_of_a_correction(world):
    system, _, table, ids = world
    system.correct(write_corrected(table, ids[:2]))
    with pytest.raises(StateError, match="not finished"):
        system.readmit(ids=[ids[0]], reason="why not")
