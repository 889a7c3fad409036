"""Storages: of this program alone, under one ledger, for their owner's eyes, and no further than their own folder."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

import hybridmu
from hybridmu import faults
from hybridmu.errors import ConfigError, HybridMUError, StateError, StorageError, StorageMismatchError
from hybridmu.store.ownership import MARKER
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.store.storage.durable_files import temporary_name
from hybridmu.store.storage.storage import Storage
from hybridmu.types import RequestState
from tests import support


@pytest.fixture
def table(tmp_path):
    support.make_table(tmp_path / "train.parquet", 40, ids="str")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def system(folder: Path, **overrides) -> hybridmu.System:
    return support.local_system(folder, sisa={"shards": 2, "slices": 2, "epochs": 2}, **overrides)


# ---------------------------------------------------------------------- other people's files


@pytest.mark.parametrize(
    "name", ["thesis.tmp", "lake/other.parquet", "deep/er/photo.jpg", ".hidden", "certificates/1.json"]
)
def test_a_folder_with_other_files_is_refused_before_anything_is_changed(table, name):
    file = table / "storage" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    before = everything(table)
    with system(table) as refused, pytest.raises(StateError, match="holds other files"):
        refused.train()
    assert everything(table) == before


def test_a_folder_with_a_link_alone_is_refused(table):
    (table / "storage").mkdir()
    (table / "storage" / "lake").symlink_to(table)
    with system(table) as refused, pytest.raises(StateError, match=r"holds other files(.|\n)*lake"):
        refused.train()


@pytest.mark.parametrize("point", ["file.opened", "file.written", "ingest.cleared", "ingest.manifest"])
@pytest.mark.sampled
def test_a_first_run_that_was_broken_off_goes_on(table, point):
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    faults.arm(point, 1, die)
    try:
        with system(table) as killed, pytest.raises(Killed):
            killed.train()
    finally:
        faults.observe(None)
    with system(table) as again:
        assert again.train()["version"] == 1


def test_a_first_run_that_was_killed_in_its_first_write_goes_on(table):
    (table / "storage").mkdir()
    half = table / "storage" / temporary_name(MARKER)
    half.write_text("{")
    with system(table) as again:
        assert again.train()["version"] == 1
    assert not half.exists()


def test_a_storage_of_an_earlier_release_is_taken_over(table):
    with system(table) as old:
        old.train()
        name = old.database.identity.system()
    (table / "storage" / MARKER).unlink()
    with system(table) as new:
        new.forget(ids=["r1"], wait=True)
        assert f'"{name}"'.encode() in (table / "storage" / MARKER).read_bytes()


def test_half_written_files_of_others_stay(table):
    with system(table) as trained:
        trained.train()
    storage = table / "storage"
    theirs = [storage / "a.tmp", storage / "blobs" / "shard-00000" / "b.tmp", storage / "notes.0123.tmp"]
    ours = [storage / temporary_name("a"), storage / "lake" / temporary_name("b")]
    for file in (*theirs, *ours):
        file.write_text("x")
    with system(table) as again:
        name = again.forget(ids=["r1"], wait=True)["request_id"]
        again.run(until_idle=True)
        assert again.ledger.request(name).state is RequestState.PURGED
    assert ([file.exists() for file in theirs], [file.exists() for file in ours]) == ([True] * 3, [False] * 2)


# ---------------------------------------------------------------------- links


def test_links_are_told_of_and_never_followed(table, caplog):
    with system(table) as trained:
        trained.train()
        storage, outside = table / "storage", table / "outside"
        outside.mkdir()
        for name in ("a.tmp", temporary_name("b"), "c.txt"):
            (outside / name).write_text("r1 is precious")
        before = everything(outside)
        for name in ("extra", ".staging-abcdefgh", "blobs/shard-00000/more", "incoming"):
            (storage / name).symlink_to(outside)
        (storage / "one.txt").symlink_to(outside / "c.txt")
    with system(table) as again:
        name = again.forget(ids=["r1"], wait=True)["request_id"]
        again.run(until_idle=True)
        assert again.ledger.request(name).state is RequestState.PURGED
        assert "extra in storage is a link" in caplog.text
        assert everything(outside) == before
        again.close()
        done = again.decommission("over")
        assert everything(outside) == before
        assert {"extra", "one.txt", "incoming"} <= set(done["links_left"])
        assert sorted(file.name for file in outside.iterdir()) == sorted(before)


def test_a_folder_that_is_a_link_is_not_deleted(tmp_path):
    storage, outside = Storage(str(tmp_path / "s")), tmp_path / "outside"
    storage.write("audits/shard-00001/name/000001.json", b"{}")
    outside.mkdir()
    (outside / "a").write_text("precious")
    (tmp_path / "s" / "audits" / "shard-00002").symlink_to(outside)
    (tmp_path / "s" / "audits" / "shard-00001" / "more").symlink_to(outside)
    Audits(storage).drop(1)
    storage.delete_folder("audits/shard-00002")
    assert (outside / "a").read_text() == "precious"
    assert not (tmp_path / "s" / "audits" / "shard-00001").exists()


def test_nothing_is_written_or_deleted_through_a_link(tmp_path):
    storage, outside = Storage(str(tmp_path / "s")), tmp_path / "outside"
    storage.write("a", b"x")
    outside.mkdir()
    (outside / "x").write_text("precious")
    (tmp_path / "s" / "incoming").symlink_to(outside)
    with storage.staging() as folder:
        (folder / "t").write_bytes(b"y")
        for change in (
            lambda: storage.write("incoming/x", b"y"),
            lambda: storage.write("incoming/deep/x", b"y"),
            lambda: storage.publish(folder / "t", "incoming/x"),
            lambda: storage.delete("incoming/x"),
        ):
            with pytest.raises(StorageError, match="is reached by a link"):
                change()
    assert everything(outside) == {"x": b"precious"}


def test_a_storage_that_is_itself_a_link_is_fine(table):
    (table / "disk").mkdir()
    (table / "storage").symlink_to(table / "disk")
    with system(table) as linked:
        linked.train()
        name = linked.forget(ids=["r1"], wait=True)["request_id"]
        linked.run(until_idle=True)
        assert linked.ledger.request(name).state is RequestState.PURGED
        assert linked.site.storage.links() == []
    assert (table / "disk" / MARKER).is_file()


@pytest.mark.parametrize("name", ["certificates", "journal", "blobs", "lineage", "lake", MARKER, "lake/manifest.json"])
@pytest.mark.sampled
def test_a_link_in_the_place_of_a_folder_of_ours_is_told_of(table, name):
    with system(table) as trained:
        trained.train()
        trained.forget(ids=["r1"], wait=True)
        trained.run(until_idle=True)
    place = table / "storage" / name
    place.rename(table / "elsewhere")
    place.symlink_to(table / "elsewhere")
    for verb in ("train", "run", "status", "requests"):
        with system(table) as again, pytest.raises(StorageError, match=f"{name}.* is reached by a link"):
            again.run(until_idle=True) if verb == "run" else getattr(again, verb)()
    place.unlink()
    (table / "elsewhere").rename(place)
    with system(table) as again:
        assert again.forget(ids=["r2"], wait=True)["state"] in {"SERVED", "PURGED"}


@pytest.mark.parametrize("pattern", ["lake/g*/train/shard-00000.parquet", "blobs/shard-00000", "lake/g*/index"])
def test_a_link_in_the_place_of_a_table_or_of_weights_stops_the_coordinator(table, pattern):
    """A purge would leave what the link leads to as it was."""
    with system(table) as trained:
        trained.train()
    (place,) = (table / "storage").glob(pattern)
    place.rename(table / "elsewhere")
    place.symlink_to(table / "elsewhere")
    with system(table) as again, pytest.raises(StorageError, match="is reached by a link"):
        again.run(until_idle=True)


@pytest.mark.parametrize("name", ["ledger.sqlite3", "ledger.sqlite3-wal"])
def test_a_ledger_that_is_a_link_is_told_of(table, name):
    with system(table) as trained:
        trained.train()
    place = table / "storage" / name
    place.touch()
    place.rename(table / "elsewhere")
    place.symlink_to(table / "elsewhere")
    for verb in ("train", "status"):
        with system(table) as again, pytest.raises(ConfigError, match=r"the database is a link(.|\n)*elsewhere"):
            getattr(again, verb)()


# ---------------------------------------------------------------------- what is lost


@pytest.fixture
def forgetful(table):
    """A trained system that has purged a row."""
    with system(table) as trained:
        trained.train()
        trained.forget(ids=["r1"], wait=True)
        trained.run(until_idle=True)
    return table


def verbs(opened):
    row = {f"x{n}": 0.0 for n in range(4)}
    yield lambda: opened.predict([row])
    yield lambda: opened.forget(ids=["r2"])
    yield lambda: opened.run(until_idle=True)
    yield opened.train


def lose(folder: Path, *names: str) -> dict[str, bytes]:
    for name in names:
        for file in (folder / "storage").glob(f"{name}*"):
            file.unlink()
    return everything(folder / "storage")


def test_a_lost_manifest_is_not_taken_for_a_storage_that_was_never_trained(forgetful):
    lose(forgetful, "lake/manifest.json")
    for number in range(4):
        with system(forgetful) as again:
            verb = [*verbs(again)][number]
            with pytest.raises(HybridMUError, match=r"manifest\.json .* is missing|lost its rows") as refused:
                verb()
        assert "hybridmu train" not in str(refused.value)


def test_a_lost_ledger_is_not_taken_for_a_storage_that_was_never_trained(forgetful):
    before = lose(forgetful, "ledger.sqlite3")
    for number in range(4):
        with system(forgetful) as again:
            verb = [*verbs(again)][number]
            with pytest.raises(StorageMismatchError, match=r"belongs to another ledger(.|\n)*restore") as refused:
                verb()
        assert "hybridmu train" not in str(refused.value)
    assert everything(forgetful / "storage") == before, "no empty ledger stands in the way of a restored one"


@pytest.mark.slow
def test_what_is_left_of_a_system_is_known_as_ours(forgetful):
    before = lose(forgetful, "ledger.sqlite3", "lake/manifest.json", MARKER)
    with system(forgetful) as again, pytest.raises(StateError, match=r"of this program(.|\n)*restore") as refused:
        again.train()
    assert "move them away" not in str(refused.value)
    assert everything(forgetful / "storage") == before
    for folder in ("lake", "blobs", "lineage"):
        shutil.rmtree(forgetful / "storage" / folder)
    for file in (forgetful / "storage").glob("journal/*"):
        file.unlink()
    with system(forgetful) as again, pytest.raises(StateError, match=r"certificates/00000001\.json(.|\n)*restore"):
        again.train()


# ---------------------------------------------------------------------- one ledger


@pytest.mark.slow
def test_a_second_ledger_on_a_storage_is_refused(table):
    with system(table) as first:
        first.train()
    before = everything(table / "storage")
    with system(table, database_url=f"sqlite:///{table}/second.sqlite3") as second:
        for verb in (second.train, second.status, lambda: second.forget(ids=["r1"])):
            with pytest.raises(StateError, match=r"belongs to another ledger|this ledger knows nothing"):
                verb()
    assert everything(table / "storage") == before
    with system(table) as first:
        assert first.verify()["exact_claims_hold"] is True


def test_a_ledger_of_another_storage_is_refused(table):
    with system(table) as first:
        first.train()
    elsewhere = {"storage_url": str(table / "other"), "database_url": f"sqlite:///{table}/second.sqlite3"}
    with system(table, **elsewhere) as second:
        second.train()
    with (
        system(table, database_url=elsewhere["database_url"]) as mixed,
        pytest.raises(StorageMismatchError, match="belongs to another ledger"),
    ):
        mixed.run(until_idle=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"mode": "private"}'])
def test_a_damaged_marker_is_an_error_with_a_remedy(table, text):
    with system(table) as trained:
        trained.train()
    (table / "storage" / MARKER).write_text(text)
    with system(table) as again, pytest.raises(HybridMUError, match=r"hybridmu.json .* is damaged"):
        again.status()


# ---------------------------------------------------------------------- modes


@pytest.fixture(params=[0o022, 0])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(*places: Path) -> tuple[set[str], set[str]]:
    """Modes of folders and of files."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    kinds = ([oct(stat.S_IMODE(p.lstat().st_mode)) for p in found if p.is_dir() is is_dir] for is_dir in (True, False))
    return set(next(kinds)), set(next(kinds))


@pytest.mark.sampled
def test_nobody_else_can_read_anything_at_any_moment(table, umask):
    seen: list[tuple[set[str], set[str]]] = []
    places = table / "deep" / "storage", table / "deep" / "storage-keys"

    def look(_: str) -> None:
        seen.append(modes(*(place for place in places if place.exists())))

    support.make_table(table / "new.parquet", 10, ids="str", start=100)
    faults.observe(look)
    try:
        with system(table, storage_url=str(places[0])) as trained:
            trained.train()
            trained.ingest(str(table / "new.parquet"))
            trained.forget(ids=["r1"], wait=True)
            trained.run(until_idle=True)
            look("")
    finally:
        faults.observe(None)
    assert len(seen) > 100
    assert {mode for folders, _ in seen for mode in folders} == {"0o700"}
    assert {mode for _, files in seen for mode in files} == {"0o600"}
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm", "lake/manifest.json"):
        assert (places[0] / name).exists() or name.endswith(("-wal", "-shm"))


@pytest.mark.parametrize(("setting", "folder", "file"), [("group-read", "0o750", "0o640"), ("group", "0o770", "0o660")])
@pytest.mark.sampled
def test_a_setting_opens_storage_to_a_group_and_closes_it_again(table, setting, folder, file):
    with system(table) as closed:
        closed.train()
    for mode, expected in ((setting, ({folder}, {file})), ("private", ({"0o700"}, {"0o600"}))):
        with system(table, storage_mode=mode) as opened:
            opened.forget(ids=[f"r{len(mode)}"], wait=True)
            opened.run(until_idle=True)
            assert modes(table / "storage") == expected
            assert modes(table / "storage-keys") == ({"0o700"}, {"0o600"}), "keys are nobody else's"


def test_a_storage_of_an_earlier_release_is_closed(table):
    with system(table) as old:
        old.train()
    storage = table / "storage"
    (storage / MARKER).unlink()
    for path in (storage, *storage.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with system(table) as new:
        new.run(until_idle=True)
    assert modes(storage) == ({"0o700"}, {"0o600"})


def test_a_ledger_elsewhere_is_private_and_its_folder_stays_as_it_is(table, umask):
    (table / "ledgers").mkdir(mode=0o755)
    before = stat.S_IMODE((table / "ledgers").stat().st_mode)
    with system(table, database_url=f"sqlite:///{table}/ledgers/own.sqlite3") as trained:
        trained.train()
        assert modes(table / "ledgers")[1] == {"0o600"}
    assert stat.S_IMODE((table / "ledgers").stat().st_mode) == before
