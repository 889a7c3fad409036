"""Forgotten rows do not come back with new data, unless somebody readmits them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.errors import RequestError, StateError, UnknownKeysError
from hybridmu.store.dataset.key_lookup import RawKey
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.key_uses import guard_uses
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.system.key_resolution import KeyResolution
from hybridmu.types import RequestState, ResolvedKey, RowKey
from tests.support import rows_of, settings_dict
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


@pytest.fixture
def keyring(tmp_path):
    return Keyring(hybridmu.Settings.parse(settings_dict(tmp_path)))


@pytest.fixture
def guard(engine, keyring):
    return Guard(engine, keyring)


def forget(ledger, keyring, *values, **options):
    """Accept a request for ids that have one row each."""
    stamp = keyring.stamp()
    keys = []
    for value in values:
        digest = int(value).to_bytes(16, "big")
        name, mac = stamp("id", value)
        keys.append(ResolvedKey("id", digest, 0, 1, (RowKey(digest),), mac, name))
    return ledger.accept(keys, **options).request_id


def unknown(*values, kind="id"):
    return [RawKey(kind, str(value), value) for value in values]


def test_nothing_is_blocked_by_an_empty_guard_and_no_key_is_made(guard, tmp_path):
    assert guard.blocks("id", [1, "1", None]).tolist() == [False] * 3
    assert guard.covers(unknown(1)) == [[]]
    assert guard.lost() == {}
    guard.check()
    assert not (tmp_path / "storage-keys").exists()


def test_kind_and_type_are_told_apart(ledger, guard, keyring):
    forget(ledger, keyring, 7, 8)
    assert guard.blocks("id", [7, 8, 9, "7", None, np.int64(7)]).tolist() == [True, True, False, False, False, True]
    assert guard.blocks("group", [7]).tolist() == [False]
    assert [bool(macs) for macs in guard.covers(unknown(7, "7", 9))] == [True, False, False]


def test_many_values(ledger, guard, keyring):
    forget(ledger, keyring, *range(0, 4000, 2))
    assert guard.blocks("id", list(range(4000))).tolist() == [n % 2 == 0 for n in range(4000)]


def test_entries_of_rotated_keys_still_hold(ledger, guard, keyring):
    forget(ledger, keyring, 7)
    keyring.rotate("guard", 0)
    forget(ledger, keyring, 8)
    assert guard.blocks("id", [7, 8, 9]).tolist() == [True, True, False]


def test_a_lost_key_closes_the_door_until_its_loss_is_accepted(ledger, guard, keyring, engine, tmp_path):
    forget(ledger, keyring, 7, 8)
    (old,) = keyring.guard_keys()
    keyring.rotate("guard", 0)
    forget(ledger, keyring, 9)
    (tmp_path / "storage-keys" / "guard-0001.hex").unlink()
    assert guard.lost() == {old: 2}
    with pytest.raises(StateError, match=f"accept-loss {old}"):
        guard.check()
    with pytest.raises(RequestError, match="not a lost one"):
        guard.accept_loss(keyring.guard_keys()[0], "why", "who")
    with pytest.raises(StateError, match="is not finished"):
        guard.accept_loss(old, "the disk burnt", "dpo")
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(state=RequestState.PURGED))
    assert guard.accept_loss(old, "the disk burnt", "dpo") == 2
    guard.check()
    assert guard.blocks("id", [7, 8, 9]).tolist() == [False, False, True]
    (logged,) = rows_of(engine, t.guard_losses)
    assert (logged.key_id, logged.entries, logged.reason, logged.caller) == (old, 2, "the disk burnt", "dpo")


def test_without_any_key_nothing_passes(ledger, guard, keyring, tmp_path):
    forget(ledger, keyring, 7)
    (tmp_path / "storage-keys" / "guard-0001.hex").unlink()
    with pytest.raises(StateError, match="guard key is lost"):
        guard.blocks("id", [1])


@pytest.mark.parametrize("state", [*RequestState, None])
def test_only_what_is_finished_is_readmitted(ledger, guard, keyring, engine, state):
    request = forget(ledger, keyring, 7, 8)
    with engine.begin() as connection:
        if state is None:  # a ledger without a memory of the request
            connection.execute(t.requests.delete())
        else:
            connection.execute(t.requests.update().values(state=state))
    if state not in {RequestState.PURGED, RequestState.CANCELLED, None}:
        with pytest.raises(StateError, match="not finished"):
            guard.readmit(unknown(7), "it was a mistake", "dpo")
        assert guard.blocks("id", [7, 8]).all()
        assert rows_of(engine, t.readmissions) == []
        return
    with pytest.raises(RequestError, match="1 id"):
        guard.readmit(unknown(7, 99), "it was a mistake", "dpo")  # all or none
    assert guard.readmit(unknown(7), "it was a mistake", "dpo") == 1
    assert guard.blocks("id", [7, 8]).tolist() == [False, True]
    (logged,) = rows_of(engine, t.readmissions)
    assert (logged.request_id, logged.caller, logged.reason) == (request, "dpo", "it was a mistake")
    assert bytes(logged.mac) == keyring.mac("id", 7)[1]


def test_cancelling_lifts_the_entries(ledger, guard, keyring):
    request = forget(ledger, keyring, 7)
    assert guard.any()
    ledger.cancel(request)
    assert not guard.any()


# ---------------------------------------------------------------------- from end to end


@pytest.fixture
def world(tmp_path):
    """A trained system with persons, of which two ids and a person are purged."""
    table = tmp_path / "train.parquet"
    write_table(table, 40, string_ids=True, groups=5)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=5)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        report = system.forget(ids=["row-3", "row-4"], groups=["u1"], strategy="retrain", wait=True)
        system.run(until_idle=True)
        assert system.report(report["request_id"])["state"] == "PURGED"
        yield system, config, table, tmp_path


def write_part(table, path, ids, *, others=False):
    """Write the rows of some ids, or all others, to another file."""
    made = pq.read_table(table)
    chosen = pc.is_in(made["id"], pa.array(ids))
    pq.write_table(made.filter(pc.invert(chosen) if others else chosen), path)
    return path


def test_forgotten_rows_are_skipped_and_counted_until_they_are_readmitted(world):
    system, config, table, folder = world
    persons = dict(zip(*pq.read_table(table).select(["id", "user"]).to_pydict().values(), strict=True))
    of_u1 = [row for row, person in persons.items() if person == "u1" and row not in {"row-3", "row-4"}]
    again = write_part(table, folder / "again.parquet", ["row-3", "row-4", *of_u1])
    extra = folder / "extra.parquet"
    new = write_table(extra, 6, string_ids=True, groups=2, seed=9, start=100)  # some of them are of u1
    path = folder / "new.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(again), pq.read_table(extra)]), path)
    theirs = [row for row, person in zip(new, pq.read_table(extra)["user"].to_pylist(), strict=True) if person == "u1"]
    assert theirs
    report = system.ingest(path, wait=True)
    skipped = 2 + len(of_u1) + len(theirs)
    assert (report["rows"], report["skipped"]) == (6 - len(theirs), skipped)
    assert system.site.lake.manifest.generations[1].skipped == skipped
    gone = ["row-3", "row-4"]
    assert_equal_to_reference(system, config, table, gone, ["u1"], [(path, 1, report["epochs"])])

    assert system.forget(ids=["row-3"])["state"] == "PURGED"  # it is forgotten already, not unknown
    with pytest.raises(UnknownKeysError):
        system.forget(ids=["row-3", "row-999"])
    with pytest.raises(RequestError, match="not forgotten"):
        system.readmit(ids=["row-5"], reason="no")
    with pytest.raises(RequestError, match="reason is empty"):
        system.readmit(ids=["row-4"], reason=" ")
    assert system.readmit(ids=["row-4"], reason="asked for by the person", caller="dpo") == {"readmitted": 1}
    assert persons["row-4"] != "u1"
    back = system.ingest(write_part(table, folder / "back.parquet", gone), wait=True)
    assert (back["rows"], back["skipped"]) == (1, 1)
    first = write_part(table, folder / "first.parquet", gone, others=True)  # what was forgotten then is another row
    second = write_part(path, folder / "second.parquet", gone, others=True)
    third = write_part(table, folder / "third.parquet", ["row-4"])
    later = [(second, 1, report["epochs"]), (third, 1, back["epochs"])]
    assert_equal_to_reference(system, config, first, [], ["u1"], later)
    assert system.guard.count(system.site.lake, {}) == 0


def test_rows_forgotten_after_their_copy_was_made_are_skipped_too(world):
    system, _, _, folder = world
    path = folder / "new.parquet"
    new = write_table(path, 8, string_ids=True, groups=3, seed=3, start=200)
    persons = dict(zip(new, pq.read_table(path)["user"].to_pylist(), strict=True))
    of_u2 = [row for row, person in persons.items() if person == "u2"]
    of_u1 = [row for row, person in persons.items() if person == "u1"]
    assert of_u2
    waiting = system.ingest(path)
    assert (waiting["rows"], waiting["skipped"]) == (8 - len(of_u1), len(of_u1))
    request = system.forget(groups=["u2"])  # has rows in the lake, and others on their way
    system.wait_for_rows(waiting["ingest_id"])
    done = system.ingestion(waiting["ingest_id"])
    assert (done["rows"], done["skipped"]) == (8 - len(of_u1) - len(of_u2), len(of_u1) + len(of_u2))
    system.run(until_idle=True)
    assert system.report(request["request_id"])["state"] == "PURGED"
    assert system.guard.count(system.site.lake, {}) == 0


@pytest.mark.slow
def test_a_purge_cleans_copies_that_wait(world):
    system, _, _, folder = world
    path = folder / "new.parquet"
    new = write_table(path, 8, string_ids=True, groups=3, seed=3, start=200)
    of_u2 = [row for row, person in zip(new, pq.read_table(path)["user"].to_pylist(), strict=True) if person == "u2"]
    waiting = system.ingest(path)
    growth = system.session.coordination.acquire()._growth
    growth._not_before[waiting["ingest_id"]] = float("inf")  # as if its disk were full
    request = system.forget(groups=["u2"])["request_id"]
    system.run(until_idle=True)
    assert system.report(request)["state"] == "PURGED"
    copy = pq.read_table(system.site.storage.path(waiting["source"]))
    assert set(copy["id"].to_pylist()) & set(of_u2) == set()
    growth._not_before.clear()
    system.wait_for_rows(waiting["ingest_id"])
    done = system.ingestion(waiting["ingest_id"])
    assert (done["rows"], done["skipped"]) == (len(copy), 8 - len(copy))


def test_an_ingestion_of_forgotten_rows_alone_is_done_at_once(world):
    system, _, table, folder = world
    report = system.ingest(write_part(table, folder / "again.parquet", ["row-3", "row-4"]))
    assert (report["state"], report["rows"], report["skipped"], report["generation"]) == ("SERVED", 0, 2, None)
    assert len(system.site.lake.manifest.generations) == 1
    assert system.site.storage.list("incoming") == []


def test_a_lost_key_refuses_everything_until_a_new_one_is_made_and_new_data_longer(world):
    system, _, _, folder = world
    (key,) = system.keyring.guard_keys()
    (folder / "storage-keys" / "guard-0001.hex").unlink()
    new = folder / "new.parquet"
    write_table(new, 5, string_ids=True, groups=2, seed=3, start=300)
    with pytest.raises(StateError, match=f"accept-loss {key}"):
        system.ingest(new)
    with pytest.raises(StateError, match="guard key is lost"):
        system.forget(ids=["row-8"])
    assert not (folder / "storage-keys" / "guard-0001.hex").exists()
    system.keyring.rotate("guard", 1)
    with pytest.raises(StateError, match=f"accept-loss {key}"):
        system.ingest(new)
    assert system.forget(ids=["row-8"], wait=True)["state"] in {"SERVED", "PURGED"}
    assert system.accept_guard_loss(key, reason="the disk burnt") == {"key_id": key, "given_up": 3}
    assert system.ingest(new, wait=True)["rows"] + system.ingests()[0]["skipped"] == 5


def test_a_new_storage_over_the_same_ledger_is_refused(world):
    """What was forgotten stays known: nothing is trained that the ledger does not know the rows of."""
    system, config, _, folder = world
    system.close()
    keys, database = str(folder / "storage-keys"), f"sqlite:///{folder / 'storage' / 'ledger.sqlite3'}"
    config = {**config, "storage_url": str(folder / "other"), "database_url": database, "keys": {"folder": keys}}
    with hybridmu.connect(config, executor="local") as other, pytest.raises(StateError, match="another storage"):
        other.train()


@pytest.mark.slow
def test_a_live_row_with_a_forgotten_id_is_a_fault_that_verify_sees(world):
    system, *_ = world
    live = next(i for i in pq.read_table(world[2])["id"].to_pylist() if i not in {"row-3", "row-4"})
    while KeyResolution(system.session).resolve([live], [], True)[0] == []:
        live = f"row-{int(live.removeprefix('row-')) + 1}"
    key_id, mac = system.keyring.mac("id", live)
    with system.database.engine.begin() as connection:
        values = {"mac": mac, "kind": "id", "key_id": key_id, "request_id": "r-0", "returns": False}
        connection.execute(sa.insert(t.guard).values(**values))
    assert system.verify([0])["guarded_rows_in_lake"] == 1


# ---------------------------------------------------------------------- keys that are lost with their number


def ingested(system, folder):
    """Use the guard key for an idempotency key alone."""
    write_table(folder / "new.parquet", 5, string_ids=True, groups=2, seed=3, start=300)
    system.ingest(folder / "new.parquet", key="once")


def readmitted(system, folder):
    """Use it for a request of which the ledger keeps no HMAC; its certificate does."""
    system.forget(ids=["row-3"], strategy="retrain", wait=True)
    system.run(until_idle=True)
    system.readmit(ids=["row-3"], reason="it was a mistake")


def cancelled(system, folder):
    system.cancel(system.forget(ids=["row-3"], key="once")["request_id"])


def forgotten(system, folder):
    system.forget(ids=["row-3"], strategy="retrain", wait=True)
    system.run(until_idle=True)


@pytest.fixture
def fresh(tmp_path):
    """A trained system that has forgotten nothing, and its folder."""
    write_table(tmp_path / "train.parquet", 40, string_ids=True, groups=5)
    config = config_for(
        tmp_path, tmp_path / "train.parquet", shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=5
    )
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield system, config, tmp_path


def lose(system):
    """Remove all guard keys with what keeps their numbers; return their ids and files."""
    lost, names = {}, system.keyring.guard_keys()
    for path in system.settings.keys_folder.glob("guard-*"):
        lost[path] = path.read_bytes()
        path.unlink()
    return names, lost


@pytest.mark.parametrize("use", [ingested, readmitted, cancelled, forgotten])
@pytest.mark.sampled
def test_a_guard_key_is_not_made_anew_whatever_it_was_used_for(fresh, use):
    system, config, folder = fresh
    use(system, folder)
    system.close()
    names, lost = lose(system)
    for call in ({"ids": ["row-5"]}, {"ids": ["row-5"], "key": "new"}):
        with pytest.raises(StateError, match="guard key is lost"):
            system.forget(**call)
    assert list(system.settings.keys_folder.glob("guard-*")) == []
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = CliRunner().invoke(app, ["keys", "rotate", "guard", "-c", str(folder / "config.yaml")])
    assert found.exit_code == 0, found.output
    assert (system.settings.keys_folder / "guard-0002.hex").exists()
    assert system.forget(ids=["row-5"])["state"] == "RECEIVED"
    for path, content in lost.items():
        path.write_bytes(content)
        path.chmod(0o600)
    assert system.keyring.guard_keys()[:1] == names, "its backup can be put back"
    assert system.guard.lost() == {}


def test_a_journal_alone_remembers_that_a_guard_key_was_used(fresh):
    """As a ledger restored from before the first request has it."""
    system, _, folder = fresh
    forgotten(system, folder)
    system.close()
    with system.database.engine.begin() as connection:
        for table in (t.requests, t.guard, t.idempotency):
            connection.execute(table.delete())
    for path in (folder / "storage" / "certificates").iterdir():
        path.unlink()
    (name,), _ = lose(system)
    assert guard_uses(system.database.engine, system.site.storage).key_ids == {name}
    with pytest.raises(StateError, match="guard key is lost"):
        system.guard.stamp()


def test_a_key_of_another_system_does_not_take_the_place_of_a_lost_one(fresh, tmp_path):
    system, _, folder = fresh
    forgotten(system, folder)
    (name,), lost = lose(system)
    other = Keyring(hybridmu.Settings.parse(settings_dict(tmp_path / "other")))
    other.mac("id", 1)
    for path in lost:
        path.write_bytes((other.settings.keys_folder / path.name).read_bytes())
        path.chmod(0o600)
    with pytest.raises(StateError, match=name):
        system.forget(ids=["row-5"])
    with pytest.raises(StateError, match=name):
        system.forget(ids=["row-5"], key="new")


def test_the_newest_key_is_missed_where_an_older_one_is_there(fresh):
    system, _, folder = fresh
    forgotten(system, folder)
    system.keyring.rotate("guard", 1)
    system.forget(ids=["row-6"])
    for path in system.settings.keys_folder.glob("guard-0002*"):
        path.unlink()
    with pytest.raises(StateError, match="guard key is lost"):
        system.forget(ids=["row-5"])
    system.keyring.rotate("guard", 2)
    assert system.forget(ids=["row-5"])["state"] == "RECEIVED"


@pytest.mark.slow
def test_another_line_in_the_place_of_a_guard_key_from_elsewhere_is_refused(tmp_path, monkeypatch):
    write_table(tmp_path / "train.parquet", 40, string_ids=True, groups=5)
    config = config_for(
        tmp_path, tmp_path / "train.parquet", shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=5
    )
    monkeypatch.setenv("GUARD", "11" * 32)
    with hybridmu.connect({**config, "keys": {"guard": "env:GUARD"}}, executor="local") as system:
        system.train()
        forgotten(system, tmp_path)
        (name,) = system.keyring.guard_keys()
        monkeypatch.setenv("GUARD", "22" * 32)
        with pytest.raises(StateError, match=f"guard key is lost(.|\n)*{name}(.|\n)*accept-loss") as refused:
            system.forget(ids=["row-5"])
        assert "rotate" not in str(refused.value), "it is not rotated here"
        monkeypatch.setenv("GUARD", f"{'11' * 32}\n{'22' * 32}")
        assert system.forget(ids=["row-5"])["state"] == "RECEIVED"
        monkeypatch.setenv("GUARD", "22" * 32)
        assert system.forget(ids=["row-6"])["state"] == "RECEIVED", "what is used already is known"
        system.run(until_idle=True)
        monkeypatch.setenv("GUARD", "33" * 32)
        with pytest.raises(StateError, match="guard key is lost"):
            system.forget(ids=["row-7"])
        for key in system.guard.lost():
            system.accept_guard_loss(key, reason="a test")
        assert system.forget(ids=["row-7"])["state"] == "RECEIVED"
