"""From SERVED to PURGED, end to end: nothing is left, what must stay stays, and a certificate says so."""

from __future__ import annotations

import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu import faults
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.types import RequestState
from tests.scenes.purged_system import POLICY, World, make_table, make_tables, world
from tests.system.test_exactness import SGD, config_for

# ---------------------------------------------------------------------- nothing is left


@pytest.mark.parametrize(("long_ids", "groups"), [(False, 0), (True, 0), (False, 9), (True, 9)])
@pytest.mark.sampled
def test_nothing_is_left_and_everything_else_goes_on(tmp_path, long_ids, groups):
    ids = make_tables(tmp_path, long_ids=long_ids, groups=groups)
    with world(tmp_path, groups=groups) as w:
        before = {split: pq.read_table(tmp_path / f"{split}.parquet").num_rows for split in ids}
        asked = [ids["train"][3], ids["train"][50], ids["validation"][4], ids["test"][5]]
        people = ["household-2"] if groups else []
        first = w.forget(asked, people, strategy="retrain")
        second = w.forget([ids["train"][7]], strategy="dpus")
        counts = w.system.ledger.counts()
        w.run()
        one, two = w.assert_certified(first, second)
        asked.append(ids["train"][7])
        w.assert_nothing_left(asked, people)
        w.assert_swept()
        w.assert_exact()
        assert w.system.ledger.tombstones() == {}, "emptied"
        after = w.system.ledger.counts()
        assert {s: {i: sum(n[:2]) for i, n in x.items()} for s, x in after.items()} == {
            s: {i: sum(n[:2]) for i, n in x.items()} for s, x in counts.items()
        }
        members = 0
        for split in ids if groups else ():
            table = pq.read_table(tmp_path / f"{split}.parquet")
            members += sum(
                user == "household-2" and row not in asked
                for row, user in zip(table["id"].to_pylist(), table["user"].to_pylist(), strict=True)
            )
        left = sum(
            pq.read_metadata(file).num_rows for file in w.storage.glob("lake/**/*.parquet") if "index" not in str(file)
        )
        assert left == sum(before.values()) - len(asked) - members
        assert one["purge"]["rows"] + two["purge"]["rows"] in {len(asked) + members, 2 * (len(asked) + members)}
        assert [stage["exact"] for stage in two["shards"][0]["stages"]] == [False, True]
        # Life goes on.
        third = w.forget([ids["train"][20], ids["test"][8]])
        w.run()
        w.assert_certified(first, second, third)
        w.assert_exact()
        w.assert_nothing_left([*asked, ids["train"][20]], people)


def test_forgetting_again_points_to_the_request_that_did_it(small):
    w = small
    first = w.forget([3, 10])
    w.run()
    again = w.system.forget(ids=[3])
    assert (again["request_id"], again["state"]) == (first, "PURGED")
    more = w.system.forget(ids=[10, 17], wait=True)
    assert (more["keys"], more["already_forgotten"]) == (1, 1)
    with pytest.raises(hybridmu.HybridMUError, match="is known"):
        w.system.forget(ids=[4])


@pytest.mark.slow
def test_verify_still_proves_every_bit(small):
    small.forget([3, 10, 17])
    small.run()
    assert small.system.verify()["exact_claims_hold"] is True
    assert small.system.plan(ids=[24]).shards


@pytest.mark.slow
def test_a_sampled_request_is_trained_anew(tmp_path):
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    with world(tmp_path, shards=1, policy={"verify_share": 1.0}) as w:
        name = w.forget([3])
        w.run()
        [document] = w.assert_certified(name)
        evidence = document["shards"][0]["evidence"]
        assert evidence["verified"] == "yes"
        assert evidence["how"].endswith("bits equal")


@pytest.mark.slow
def test_with_the_ledger_on_a_server(tmp_path, postgresql):
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    with postgresql.database() as url, world(tmp_path, database_url=url) as w:
        one, two = w.forget([3, 10]), w.forget([17], strategy="dpus")
        w.run()
        documents = w.assert_certified(one, two)
        assert all(document["purge"]["looked"]["database"]["bytes"] > 100 for document in documents)
        w.assert_nothing_left([3, 10, 17])
        w.assert_swept()
        w.assert_exact()
        w.system.database.engine.dispose()


def test_live_duplicates_stay_and_are_counted(tmp_path):
    made = make_table(50)
    twins = made.slice(5, 1).set_column(0, "id", pa.array([900001]))
    pq.write_table(pa.concat_tables([made, twins]), tmp_path / "train.parquet")
    with world(tmp_path) as w:
        name = w.forget([5 * 7 + 3])
        w.run()
        [document] = w.assert_certified(name)
        assert document["purge"]["duplicates_left"] == 1
        assert w.places([900001])
        w.assert_exact()


def test_an_emptied_shard(tmp_path):
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    with world(tmp_path) as w:
        ids = w.places(range(3, 40 * 7 + 3, 7))[1]
        name = w.forget(ids)
        w.run()
        [document] = w.assert_certified(name)
        [shard] = document["shards"]
        assert shard["after"]["weights"] is None
        assert shard["evidence"]["revoked_rows"] == len(ids)
        w.assert_nothing_left(ids)
        w.assert_swept()
        w.assert_exact()


def test_a_request_from_before_the_training_ends(tmp_path):
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    table = tmp_path / "train.parquet"
    config = config_for(tmp_path, table, shards=3, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    config["policy"] = POLICY
    connect(hybridmu.Settings.parse(config).database, create=True).dispose()
    with hybridmu.connect(config, executor="local") as system:
        w = World(system, config, table)
        system.session.coordination.acquire().begin_training()
        early = w.forget([3, 10], wait=False)
        while system.registry.served() is None:
            system.session.coordination.step(0.0)
        w.run()
        [document] = w.assert_certified(early)
        assert [s["evidence"]["revoked_rows"] for s in document["shards"]] == [0] * len(document["shards"])
        assert all(s["before"] == s["after"] for s in document["shards"]), "no model ever saw the rows"
        w.assert_nothing_left([3, 10])
        w.assert_exact()


def test_only_keyed_hashes_are_written_down(small):
    name = small.system.forget(ids=[3], key="dsar-customer-4711", wait=True, strategy="retrain")["request_id"]
    small.run()
    small.assert_certified(name)
    for file in small.storage.rglob("*"):
        assert not file.is_file() or b"dsar-customer-4711" not in file.read_bytes(), file
    assert small.system.forget(ids=[3], key="dsar-customer-4711", strategy="retrain")["request_id"] == name
    with pytest.raises(hybridmu.HybridMUError, match="another payload"):
        small.system.forget(ids=[10], key="dsar-customer-4711", strategy="retrain")


# ---------------------------------------------------------------------- what blocks


def test_a_file_that_names_the_id_blocks_until_it_is_removed(small, clocked):
    w = small
    stray = w.storage / "exports" / "customers.csv"
    stray.parent.mkdir()
    stray.write_text("id,name\n17,Ada\n")
    found, innocent = w.forget([17]), w.forget([24])
    w.run()
    assert w.state(found) == RequestState.SERVED
    assert w.request(found).reason == (
        "not purged: exports/customers.csv still names a purged row: delete it, or move it elsewhere"
    )
    assert w.system.report(found)["reason"] == w.request(found).reason
    w.assert_certified(innocent)
    clocked()
    w.run()
    assert w.state(found) == RequestState.SERVED, "it is looked for again"
    stray.unlink()
    clocked()
    w.run()
    w.assert_certified(innocent, found)
    w.assert_nothing_left([17, 24])


def test_a_held_request_gets_its_own_certificate_later(small, clocked):
    w = small
    rows = w.places(range(3, 60 * 7 + 3, 7))[0]
    held, other = w.forget(rows[:2], wait=False), w.forget(rows[2:4], wait=False)
    number = w.system.hold("a lawsuit", held)["number"]
    w.run()
    w.assert_certified(other)
    assert (w.state(held), w.request(held).reason) == (RequestState.SERVED, f"legal hold {number}")
    assert w.places(rows[:2]) == {0: rows[:2]}, "its rows are there"
    w.assert_nothing_left(rows[2:4])
    w.assert_exact()
    later = w.forget(rows[4:6])
    w.run()
    w.system.lift(number)
    clocked(2.0)
    w.run()
    documents = w.assert_certified(other, later, held)
    assert [document["shards"][0]["evidence"]["revoked_rows"] for document in documents] == [2, 2, 2]
    w.assert_nothing_left(rows[:6])


def test_a_hold_that_comes_while_the_purge_begins(small, clocked):
    w = small
    held, other = (w.forget([row], wait=False) for row in w.places(range(3, 60 * 7 + 3, 7))[0][:2])
    placed = []

    def observer(name: str) -> None:
        if name == "proof.committed" and not placed:
            placed.append(w.system.hold("a lawsuit", held)["number"])

    faults.observe(observer)
    try:
        w.run()
    finally:
        faults.observe(None)
    w.assert_certified(other)
    assert w.request(held).reason == f"legal hold {placed[0]}"
    assert w.places(w.gone_ids).keys() == {0}, "its row is there"
    w.system.lift(placed[0])
    clocked()
    w.run()
    w.assert_certified(other, held)


def test_a_hold_on_one_row_keeps_the_group_that_has_it(tmp_path, clocked):
    ids = make_tables(tmp_path, long_ids=True, groups=9)
    with world(tmp_path, groups=9) as w:
        table = pq.read_table(tmp_path / "train.parquet")
        owner = dict(zip(ids["train"], table["user"].to_pylist(), strict=True))
        row = next(row for row in ids["train"] if owner[row] == "household-2")
        one = w.forget([row])
        number = w.system.hold("a lawsuit", one)["number"]
        group = w.forget([], ["household-2"])
        w.run()
        assert w.request(group).reason == "not purged: a legal hold covers some of its rows"
        assert w.certificates == []
        assert w.places([row])
        w.system.lift(number)
        clocked()
        w.run()
        w.assert_certified(one, group)
        w.assert_nothing_left([row], ["household-2"])


def test_overlapping_requests_of_one_row_each_get_theirs(tmp_path, clocked):
    """The group's purge takes along a row whose own request waits for its retention."""
    ids = make_tables(tmp_path, long_ids=True, groups=9)
    with world(tmp_path, groups=9, policy={"retention_seconds": 1e6}) as w:
        table = pq.read_table(tmp_path / "train.parquet")
        owner = dict(zip(ids["train"], table["user"].to_pylist(), strict=True))
        row = next(row for row in ids["train"] if owner[row] == "household-2")
        one = w.forget([row])
        group = w.forget([], ["household-2"], deadline_seconds=50.0)
        w.run()
        w.assert_certified(group)
        assert w.request(one).reason.startswith("old versions are kept until ")
        w.assert_nothing_left([row], ["household-2"])
        with sqlite3.connect(w.storage / "ledger.sqlite3") as database:
            database.execute("update requests set deadline_at = 1")
        database.close()
        clocked(2.0)
        w.run()
        first, second = w.assert_certified(one, group)
        assert first["shards"][0]["evidence"]["revoked_rows"] == 1
        assert second["shards"][0]["evidence"]["revoked_rows"] > 1


@pytest.mark.slow
def test_pausing_keeps_rows_and_old_versions(small):
    w = small
    w.system.pause("migrating", "someone")
    name = w.forget([3], wait=False)
    for _ in range(3):
        w.system.session.coordination.step(0.0)
    w.system.resume()
    w.system.wait(name)
    w.system.pause("migrating", "someone")
    snapshot = w.system.run(until_idle=True)
    assert not snapshot.purging
    assert w.state(name) == RequestState.SERVED
    w.system.resume()
    w.run()
    w.assert_certified(name)
