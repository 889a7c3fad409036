"""Whatever goes wrong in a purge is said, is tried again, and ends in the same state; the coordinator goes on."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu import faults
from hybridmu.core.kernel.partition import digest
from hybridmu.errors import (
    CertificateRefusedError,
    ConfigError,
    CorruptBlobError,
    DatabaseError,
    LeaseLostError,
    PurgeError,
    StorageError,
)
from hybridmu.runtime.coordinator import certifier
from hybridmu.runtime.coordinator.calibrator import Calibrator
from hybridmu.runtime.purge.storage_scan import Look
from hybridmu.runtime.workers.evidence_builder import Prover
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.purge.purge_evidence import PurgeEvidence
from hybridmu.store.ledger.purge.purge_records import Deletions
from hybridmu.store.storage.storage import Storage
from hybridmu.types import RequestState
from hybridmu.user_code import told
from tests import support
from tests.scenes.purged_system import World, make_table, world

IDS = range(3, 60 * 7 + 3, 7)


def on_shards(w: World) -> dict[int, list]:
    return w.places(IDS)


def ledger(w: World, statement: str, *values) -> None:
    """Change the ledger from outside."""
    with closing(sqlite3.connect(w.storage / "ledger.sqlite3")) as database, database:
        database.execute(statement, values)


# ---------------------------------------------------------------------- failures


def failing(times: int, error: Exception):
    """Wrap a method so that its first calls fail."""

    def wrap(real):
        def method(*args, **kwargs):
            nonlocal times
            if times:
                times -= 1
                raise error
            return real(*args, **kwargs)

        return method

    return wrap


PLACES = {
    "prove": (Prover, "proof"),
    "survey": (ShardWorker, "prove"),
    "save": (PurgeEvidence, "save"),
    "rows": (ShardWorker, "purge"),
    "journal": (Journal, "scrub"),
    "look": (Look, "run"),
    "scrub": (Deletions, "scrub"),
    "clean": (Database, "clean"),
    "key": (Keyring, "signing_key"),
    "build": (certifier, "build"),
    "pass": (Deletions, "pass_"),
    "append": (Certificates, "append"),
    "finish": (Deletions, "finish"),
    "end": (Deletions, "end"),
}
ERRORS = [
    StorageError("the disk is full"),
    DatabaseError("the connection broke off"),
    CorruptBlobError("a blob is missing"),
    PurgeError("something is still there"),
    ConfigError("the key can't be read"),
    OSError(28, "No space left on device"),
    KeyError("a bug"),
]


@pytest.fixture
def hasty(tmp_path):
    """A system as `small`, in which no job is repeated at once."""
    pq.write_table(make_table(60), tmp_path / "train.parquet")
    with world(tmp_path, policy={"max_attempts": 1}) as made:
        yield made


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.sampled
def test_a_failure_is_said_and_tried_again(hasty, clocked, monkeypatch, place):
    w = hasty
    error = ERRORS[sorted(PLACES).index(place) % len(ERRORS)]
    owner, name = PLACES[place]
    one, two = w.forget([3, 10]), w.forget([17], strategy="dpus")
    monkeypatch.setattr(owner, name, failing(1, error)(getattr(owner, name)))
    w.run()
    waiting = [request for request in (one, two) if w.state(request) == RequestState.SERVED]
    assert waiting or place in {"append", "finish", "end"}
    for request in waiting:
        reason = w.request(request).reason
        assert reason.startswith("not purged: ") or place in {"append", "finish"}
    later = w.forget([24])
    assert w.state(later) == RequestState.SERVED, "the coordinator goes on"
    clocked()
    w.run()
    w.assert_certified(one, two, later)
    w.assert_nothing_left([3, 10, 17, 24])
    w.assert_swept()
    w.assert_exact()


@pytest.mark.parametrize("place", ["prove", "purge"])
@pytest.mark.sampled
def test_a_storage_that_fails_for_a_moment_costs_no_wait(small, monkeypatch, place):
    w = small
    times = w.system.settings.policy.max_attempts - 1
    monkeypatch.setattr(ShardWorker, place, failing(times, StorageError("no answer"))(getattr(ShardWorker, place)))
    one = w.forget([3])
    w.run()
    w.assert_certified(one)


@pytest.mark.slow
def test_errors_of_every_kind_are_survived(small, clocked, monkeypatch):
    w = small
    one = w.forget([3])
    real = Database.clean
    for error in ERRORS:
        monkeypatch.setattr(Database, "clean", failing(1, error)(real))
        clocked()
        w.run()
        assert w.request(one).reason == f"not purged: {' '.join(told(error).split())}"
    clocked()
    w.run()
    w.assert_certified(one)


@pytest.mark.slow
def test_what_fails_on_one_shard_keeps_others_requests_going(small, clocked, monkeypatch):
    w = small
    places = on_shards(w)
    here, there = w.forget(places[0][:1], wait=False), w.forget(places[1][:1], wait=False)
    both = w.forget([places[0][1], places[2][0]], wait=False)
    real = ShardWorker.purge

    def broken(worker, job):
        if worker.shard == 0:
            raise StorageError("shard 0 can't be read")
        return real(worker, job)

    monkeypatch.setattr(ShardWorker, "purge", broken)
    w.run()
    w.assert_certified(there)
    for name in (here, both):
        assert w.request(name).reason == "not purged: shard 0: shard 0 can't be read"
    monkeypatch.setattr(ShardWorker, "purge", real)
    clocked()
    w.run()
    w.assert_certified(here, there, both)


def test_a_ledger_that_can_not_even_be_told_stops_nothing(small, clocked, monkeypatch):
    w = small
    one = w.forget([3])
    broken = DatabaseError("the connection broke off")
    monkeypatch.setattr(Database, "clean", failing(1, broken)(Database.clean))
    monkeypatch.setattr(Deletions, "note", failing(1, broken)(Deletions.note))
    w.run()
    assert (w.state(one), w.request(one).reason) == (RequestState.SERVED, None)
    clocked()
    w.run()
    w.assert_certified(one)


@pytest.mark.parametrize("place", ["save", "scrub", "pass", "finish"])
@pytest.mark.sampled
def test_a_lost_lease_ends_the_coordinator(small, monkeypatch, place):
    owner, name = PLACES[place]
    small.forget([3])
    monkeypatch.setattr(owner, name, failing(1, LeaseLostError("another one took over"))(getattr(owner, name)))
    with pytest.raises(LeaseLostError):
        small.run()


def test_a_file_that_changed_from_outside_is_a_failure_not_a_purge(small, clocked):
    w = small
    places = on_shards(w)
    [name] = w.system.site.lake.files("train", 0)
    whole = (w.storage / name).read_bytes()
    one = w.forget(places[0][:1])
    (w.storage / name).write_bytes(whole[:-40])
    w.run()
    assert "damaged" in w.request(one).reason
    (w.storage / name).write_bytes(whole)
    clocked()
    w.run()
    w.assert_certified(one)


# ---------------------------------------------------------------------- refusals


@pytest.mark.slow
def test_a_removal_that_changes_no_bit_is_compared_with_a_new_training(tmp_path):
    """So small a rate changes no weight: that the rows had no influence is shown by training without them."""
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    with world(tmp_path, optimizer={"name": "sgd", "lr": 1e-40}) as w:
        one = w.forget([3])
        w.run()
        w.assert_certified(one)
        [document] = w.certificates
        [shard] = document["shards"]
        assert shard["before"]["weights"] == shard["after"]["weights"]
        assert shard["evidence"]["verified"] == "yes"
        assert "no influence" in shard["evidence"]["how"]
        assert not w.places([3])


def test_a_refused_request_goes_on_once_its_evidence_can_be_made(small):
    """Evidence of an older release did not compare; a coordinator that starts looks anew."""
    w = small
    one = w.forget(on_shards(w)[0][:1])
    w.system.close()
    ledger(w, "insert into evidence values (?, 0, '{}', 'an older release refused it')", one)
    w.run()
    w.assert_certified(one)


@pytest.mark.slow
def test_a_refused_request_keeps_no_other_back(small, clocked):
    w = small
    mine, other = on_shards(w)[0][:2], on_shards(w)[1][:1]
    first = w.system.registry.version().shards[0].blob
    refused = w.forget(mine[:1])
    ledger(w, "update version_shards set blob = ? where version = 2", first)  # the executor only said that it did it
    beside, apart = w.forget(mine[1:]), w.forget(other)
    w.run()
    assert "the weights and the vote are as before" in w.request(refused).reason
    w.assert_certified(beside, apart)
    for _ in range(2):
        clocked()
        w.run()
    assert w.state(refused) == RequestState.SERVED
    assert "the weights and the vote are as before" in w.request(refused).reason, "still the true reason"
    assert w.places(mine[:1])


def test_rows_that_the_lineage_does_not_know_are_refused(small):
    w = small
    one = w.forget([3, 10])
    ledger(w, "delete from tombstones where seq = 2")
    w.run()
    assert "was not made of the rows that are there" in w.request(one).reason
    assert w.certificates == []


def test_other_bits_than_a_new_training_are_refused(small, monkeypatch):
    w = small
    one = w.forget([3])

    def other_bits(settings, gone, shards, processes, watch=None, **_):
        return {shard: w.system.site.fresh_model(shard).state_dict() for shard in shards}, 0.0

    monkeypatch.setattr("hybridmu.runtime.workers.evidence_builder.train_from_scratch", other_bits)
    monkeypatch.setattr(ShardWorker, "_sampled", lambda *_: True)
    w.run()
    assert "is not what training without the rows gives" in w.request(one).reason
    assert w.certificates == []


def test_a_refusal_after_the_rows_went_gives_no_number_out(small, clocked, monkeypatch):
    w = small
    one, two = (w.forget([row], wait=False) for row in on_shards(w)[0][:2])
    real = certifier.build

    def picky(**facts):
        if facts["request"].id == two:
            raise CertificateRefusedError("no")
        return real(**facts)

    monkeypatch.setattr(certifier, "build", picky)
    w.run()
    assert w.certificates == []
    monkeypatch.setattr(certifier, "build", real)
    clocked()
    w.run()
    w.assert_certified(one, two)


# ---------------------------------------------------------------------- crashes


class Crash(BaseException):
    """The process ends here."""


def crash_at(number: int) -> list[str]:
    """Let the process end at the so-many-th fault point; return the list of those reached, as it grows."""
    reached: list[str] = []

    def observer(name: str) -> None:
        reached.append(name)
        if len(reached) == number:
            raise Crash

    faults.observe(observer)
    return reached


@pytest.fixture
def unobserved():
    yield
    faults.observe(None)


def reopened(w: World, storage: Path) -> World:
    """Another process over (a copy of) storage; the lease of the dead one has run out."""
    config = {**w.config, "storage_url": str(storage)}
    made = World(hybridmu.connect(config, executor="local"), config, w.table)
    made.gone_ids = w.gone_ids
    ledger(made, "update leases set expires_at = 0")
    return made


def contents(w: World) -> dict[str, str]:
    """Hash of every file that does not depend on time: tables, indexes, blobs, lineage."""
    return {
        str(file.relative_to(w.storage)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in w.storage.rglob("*")
        if file.is_file() and file.relative_to(w.storage).parts[0] in {"lake", "blobs", "lineage"}
    }


def test_a_crash_between_any_two_steps_ends_in_the_same_state(tmp_path, unobserved):
    pq.write_table(make_table(40), tmp_path / "train.parquet")
    with world(tmp_path, shards=2, slices=2) as w:
        one, two = w.forget([3, 10]), w.forget([17])
        w.system.close()
        shutil.copytree(w.storage, tmp_path / "calm")
        shutil.copytree(f"{w.storage}-keys", tmp_path / "calm-keys", dirs_exist_ok=True)
        calm = reopened(w, tmp_path / "calm")
        reached = crash_at(0)
        calm.run()
        faults.observe(None)
        expected, rows = contents(calm), [d["purge"]["rows"] for d in calm.assert_certified(one, two)]
        calm.system.close()
        points = {name: at for at, name in reversed([*enumerate(reached, start=1)])}  # the first of each name
        last = {name: at for at, name in enumerate(reached, start=1)}
        points |= {f"last {name}": last[name] for name in ("proof.committed", "purge.rows", "finish.committed")}
        assert len(points) > 25
        crashed = 0
        for at in sorted(set(points.values())):
            folder = tmp_path / f"crash-{at}"
            shutil.copytree(w.storage, folder)
            shutil.copytree(tmp_path / "calm-keys", f"{folder}-keys")
            dying = reopened(w, folder)
            crash_at(at)
            try:
                dying.run()  # a heartbeat more or less, and the last points are not reached
            except Crash:
                crashed += 1
            faults.observe(None)
            dying.system.session.coordination.driver = None  # it gives nothing back
            after = reopened(w, folder)
            after.run()
            where = f"killed at {reached[at - 1]}, point {at}"
            documents = after.assert_certified(one, two)
            assert len(after.certificates) == 2, where
            assert contents(after) == expected, where
            assert [d["purge"]["rows"] for d in documents] == rows, where
            after.assert_nothing_left([3, 10, 17])
            after.assert_swept()
            assert after.system.ledger.tombstones() == {}
            after.system.close()
            shutil.rmtree(folder)
        assert crashed > 25


# ---------------------------------------------------------------------- fairness and cost


@pytest.mark.slow
def test_a_purge_is_not_starved_by_new_requests(small, clocked):
    w = small
    rows = on_shards(w)[0]
    one = w.forget(rows[:1], wait=False)
    for row in rows[1:9]:  # every step there is another request for the same shard
        w.system.session.coordination.step(0.0)
        w.forget([row], wait=False)
        if w.state(one) == RequestState.SERVED:
            clocked(40.0)
    late = w.forget([rows[9]], wait=False)
    for _ in range(8):
        w.system.session.coordination.step(0.0)
    assert w.state(one) == RequestState.PURGED
    w.run()
    w.assert_certified(one, late)
    w.assert_exact()


@pytest.mark.slow
def test_an_idle_coordinator_hardly_asks(small, monkeypatch):
    w = small
    w.forget([3])
    w.run()
    asked = []
    real = Deletions.purgeable
    monkeypatch.setattr(Deletions, "purgeable", lambda *args: asked.append(1) or real(*args))
    for _ in range(50):
        w.system.session.coordination.step(0.0)
    assert len(asked) <= 3


@pytest.mark.slow
def test_certificates_are_not_listed_for_each_request(small, monkeypatch):
    w = small
    names = [w.forget([row], wait=False) for row in list(IDS)[:12]]
    listed = []
    real = Storage.list
    monkeypatch.setattr(Storage, "list", lambda s, p="": listed.append(p) or real(s, p))
    w.run()
    assert listed.count("certificates") <= 4  # of twelve requests
    monkeypatch.undo()
    w.assert_certified(*names)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.sampled
def test_canaries_that_are_purged_leave_the_calibration(tmp_path, monkeypatch, again):
    pq.write_table(make_table(80), tmp_path / "train.parquet")
    policy = {"calibrate": True, "calibration_shards": 1, "calibration_shares": [0.1], "recalibration_share": 1e9}
    policy |= {"light_seconds": 0.0, "time_ratio": 1e-9}
    with world(tmp_path, shards=2, policy={**policy, "verify_share": 0.0}) as w:
        w.system.train(calibrate=True)
        if not again:  # the purge itself removes them
            monkeypatch.setattr(Calibrator, "again", lambda *_: None)
        measurements, key = w.system.measurements, w.system.site.lake.key

        def canaries():
            known = {digest for curve in measurements.curves() for digest in curve.keys}
            return [row for row in range(3, 80 * 7 + 3, 7) if digest(key, "id", row) in known]

        cells = {curve.cell for curve in measurements.curves()}
        assert len(cells) == 2
        gone = canaries()[0]
        name = w.forget([gone])
        if again:
            w.run()
        else:
            while w.state(name) is not RequestState.PURGED:
                w.system.session.coordination.step(0.0)
        w.assert_certified(name)
        assert gone not in canaries()
        found = {curve.cell for curve in measurements.curves()}
        assert len(found) == (2 if again else 1), "fresh canaries were deleted when nothing else was to do"
        w.assert_nothing_left([gone])


@pytest.mark.slow
def test_a_signing_key_that_is_lost_between_two_certificates_is_not_made_anew(tmp_path):
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    config = support.settings_dict(tmp_path, sisa={"shards": 2, "slices": 2, "epochs": 2})
    support.make_table(tmp_path / "train.parquet", 40)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        for row in (1, 2):
            system.forget(ids=[row], strategy="retrain")
        faults.arm("certificate.appended", 1, die)
        try:
            with pytest.raises(Killed):
                system.run(until_idle=True)
        finally:
            faults.observe(None)
    for path in (tmp_path / "storage-keys").glob("signing-*"):
        path.unlink()
    with hybridmu.connect(config, executor="local") as system:
        for _ in range(5):
            system.session.coordination.step(0.0)
        assert [len(Certificates(system.site.storage).all()), *(tmp_path / "storage-keys").glob("signing-*")] == [1]
        system.keyring.rotate("signing", 1)
        system.close()
        system.run(until_idle=True)
        assert len(Certificates(system.site.storage).signers()) == 2
