"""Disks that are full, read-only or damaged: a clear error or a retry, never other weights; afterwards it goes on."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hybridmu
from hybridmu import faults
from hybridmu.errors import CorruptBlobError, HybridMUError, StorageError
from hybridmu.serving.replica import Replica
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.storage.blob_names import blob_file, lineage_file
from hybridmu.types import RequestState
from tests import support
from tests.faults.campaign import damage

ROWS = 60
SMALL: dict[str, Any] = {
    "sisa": {"shards": 2, "slices": 3, "epochs": 2, "batch_size": 8},
    "policy": {"strategy": "retrain", "verify_share": 0.0},
}
Weights = dict[int, str | None]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.observe(None)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., hybridmu.System]]:
    """Systems over the same table, each with a storage of its own."""
    opened: list[hybridmu.System] = []
    support.make_table(tmp_path / "train.parquet", ROWS)

    def start(storage: Path = tmp_path / "storage", **overrides: Any) -> hybridmu.System:
        opened.append(support.local_system(tmp_path, storage_url=str(storage), **{**SMALL, **overrides}))
        opened[-1].train()
        return opened[-1]

    yield start
    for system in opened:
        system.close()


def weights(system: hybridmu.System) -> Weights:
    return {sub.shard: sub.blob for sub in system.registry.version().shards}


def undisturbed(connect: Callable[..., hybridmu.System], tmp_path: Path, ids: list[int]) -> Weights:
    system = connect(tmp_path / "undisturbed")
    system.forget(ids=ids, wait=True)
    return weights(system)


def go_on(system: hybridmu.System) -> None:
    """Step until every request is purged, and every shard was read for damage."""
    for _ in range(60):
        snapshot = system.session.coordination.step(0.0)
    states = {request.state for request in system.ledger.requests()}
    assert states <= {RequestState.PURGED}, system.requests()
    assert not snapshot.jobs_total


# ---------------------------------------------------------------------- no space


def mounted(*command: str) -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", *command], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)):
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("where", ["storage and ledger", "storage"])
@pytest.mark.sampled
def test_a_full_disk_stops_nothing_for_good(
    connect: Callable[..., hybridmu.System], tmp_path: Path, disk: Path, where: str
) -> None:
    ledger = disk / "storage" if where == "storage and ledger" else tmp_path
    system = connect(disk / "storage", database_url=f"sqlite:///{ledger / 'ledger.sqlite3'}")
    system.forget(ids=[0])
    go_on(system)
    accepted = [0]
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    refusals = []
    for number in range(1, 4):
        try:
            system.forget(ids=[number], key=f"k{number}", strategy="retrain")
            accepted.append(number)
        except HybridMUError as error:
            refusals.append(error)
        for _ in range(12):
            try:
                system.session.coordination.step(0.0)
            except HybridMUError as error:
                refusals.append(error)
    open_ = [request for request in system.ledger.requests() if request.state is not RequestState.PURGED]
    assert refusals or open_
    assert all("space" in str(error) or "full" in str(error) for error in refusals)
    assert all("space" in (request.reason or "") for request in open_ if request.state is RequestState.FAILED)
    filler.unlink()
    for number in range(1, 4):  # what failed is taken up again by whoever asks
        system.forget(ids=[number], key=f"again{number}", strategy="retrain")
    go_on(system)
    assert weights(system) == undisturbed(connect, tmp_path, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("point", "hit"),
    [("blob.write", 1), ("file.opened", 3), ("file.move", 1), ("file.move", 2), ("certificate.link", 1)]
    + [("key.link", hit) for hit in (1, 2, 3)],
)
@pytest.mark.sampled
def test_a_disk_that_is_full_for_a_moment_delays_at_most(
    connect: Callable[..., hybridmu.System], tmp_path: Path, point: str, hit: int
) -> None:
    system = connect()
    faults.arm(point, hit, faults.fill_disk)
    try:
        system.forget(ids=[3, 4], key="k")
    except HybridMUError:
        system.forget(ids=[3, 4], key="k")
    for _ in range(40):
        with suppress(HybridMUError):
            system.session.coordination.step(0.0)
    faults.observe(None)
    system.close()  # what a purge put off for a minute, a new coordinator begins at once
    go_on(system)
    assert weights(system) == undisturbed(connect, tmp_path, [3, 4])


# ---------------------------------------------------------------------- read-only


@pytest.mark.slow
def test_a_read_only_disk_is_named_and_nothing_changes(connect: Callable[..., hybridmu.System], tmp_path: Path) -> None:
    system = connect()
    storage = tmp_path / "storage"
    system.forget(ids=[5])
    before = weights(system)
    system.close()
    if not (mounted("--bind", str(storage), str(storage)) and mounted("-o", "remount,bind,ro", str(storage))):
        pytest.skip("only root may mount")
    try:
        with support.local_system(tmp_path, storage_url=str(storage), **SMALL) as readonly:
            for call in (lambda: readonly.forget(ids=[6]), lambda: readonly.run(until_idle=True)):
                with pytest.raises(HybridMUError, match=r"can't be written|can't be opened|read-only"):
                    call()
            assert weights(readonly) == before
    finally:
        subprocess.run(["umount", "--lazy", str(storage)], check=True)
    go_on(system)
    assert weights(system) == undisturbed(connect, tmp_path, [5])


# ---------------------------------------------------------------------- damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [cut, damage, zero, Path.unlink])
@pytest.mark.parametrize("slice_", [1, 2, 3])
@pytest.mark.sampled
def test_damaged_weights_are_made_again_with_the_same_bits(
    connect: Callable[..., hybridmu.System], harm: Callable[[Path], None], slice_: int
) -> None:
    """Slice 3 is what answers, slices 1 and 2 are checkpoints; no request touches the shard."""
    system = connect()
    system.forget(ids=[7])
    go_on(system)
    system.close()
    before, version = weights(system), system.registry.served()
    path = Path(system.site.storage.path(blob_file(system.registry.version().shards[1].checkpoints[slice_ - 1].blob)))
    whole = path.read_bytes()
    harm(path)
    go_on(system)
    assert path.read_bytes() == whole
    assert (weights(system), system.registry.served()) == (before, version), "the same version is whole again"
    assert system.registry.version().shards[1].checkpoints


@pytest.mark.slow
def test_a_damaged_lineage_entry_costs_time_only(connect: Callable[..., hybridmu.System], tmp_path: Path) -> None:
    system = connect()
    served = system.registry.version().shards
    keys = [(sub.shard, record.lineage_key) for sub in served for record in sub.checkpoints]
    for (shard, key), data in zip(keys, [b"", b"\xff" * 50, b"0/zz", b"1/" + b"a" * 48, b"../x", b"0"], strict=True):
        system.site.storage.write(lineage_file(shard, key), data)
    system.forget(ids=[8, 9])
    go_on(system)
    assert weights(system) == undisturbed(connect, tmp_path, [8, 9])


@pytest.mark.slow
def test_whoever_meets_damage_has_it_mended(connect: Callable[..., hybridmu.System]) -> None:
    system = connect()
    go_on(system)  # it has read everything, and found it whole
    row = {f"x{i}": 0.0 for i in range(4)}
    answer = system.predict([row])
    path = Path(system.site.storage.path(blob_file(system.registry.version().shards[1].blob or "")))
    damage(path)
    assert system.predict([row]) == answer, "what is loaded is not read again"
    other = hybridmu.connect(system.settings, executor="local")
    with other, pytest.raises(CorruptBlobError, match="coordinator retrains"):
        other.predict([row])
    system.run(until_idle=True)
    with hybridmu.connect(system.settings, executor="local") as other:
        assert other.predict([row]) == answer
    damage(path)
    with pytest.raises(CorruptBlobError):
        Replica(system.settings, "r")
    system.run(until_idle=True)
    replica = Replica(system.settings, "r")
    assert replica.ensemble.answer(replica.ensemble.encode([row])) == answer
    replica.close()
    damage(path)
    with pytest.raises(CorruptBlobError):
        system.verify([1])
    system.run(until_idle=True)
    assert system.predict([row]) == answer


@pytest.mark.slow
def test_an_approximate_shard_is_mended_exactly(connect: Callable[..., hybridmu.System], tmp_path: Path) -> None:
    system = connect(policy={"strategy": "auto", "calibrate": False, "repair": "deadline", "verify_share": 0.0})
    system.forget(ids=[10, 11, 12, 13], strategy="dpus", wait=True)
    rough = next(sub for sub in system.registry.version().shards if not sub.exact)
    damage(Path(system.site.storage.path(blob_file(rough.blob or ""))))
    system.close()
    for _ in range(30):
        system.session.coordination.step(0.0)
    assert system.registry.version().shards[rough.shard].exact
    assert weights(system)[rough.shard] == undisturbed(connect, tmp_path, [10, 11, 12, 13])[rough.shard]


def test_no_changed_bit_of_a_table_gives_other_rows(connect: Callable[..., hybridmu.System]) -> None:
    system = connect()
    lake = system.site.lake
    (name,) = lake.files("train", 0)
    path = Path(lake.storage.path(name))
    whole, rows = path.read_bytes(), lake.rows("train", 0, set())
    draw, refused = random.Random(0), 0
    for at in draw.sample(range(len(whole)), 800):
        data = bytearray(whole)
        data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            found = Lake(lake.settings, lake.storage).rows("train", 0, set())
        except StorageError:
            refused += 1
            continue
        assert torch.equal(found.x, rows.x)
        assert torch.equal(found.y, rows.y)
        for column in ("slice", "ids", "groups", "content"):
            assert np.array_equal(getattr(found, column), getattr(rows, column))
    assert refused > 600


@pytest.mark.slow
def test_a_damaged_table_fails_one_request(connect: Callable[..., hybridmu.System], tmp_path: Path) -> None:
    system = connect()
    places = {number: shard_of(system, number) for number in range(ROWS)}
    mine, other = (next(n for n, shard in places.items() if shard == wanted) for wanted in (0, 1))
    (name,) = system.site.lake.files("train", 0)
    path = Path(system.site.storage.path(name))
    whole = path.read_bytes()
    failing = system.forget(ids=[mine], strategy="retrain")["request_id"]
    fine = system.forget(ids=[other], strategy="retrain")["request_id"]
    path.write_bytes(whole[:-20])
    system.close()  # another process has no row in memory
    with pytest.raises(StorageError, match="damaged"):
        system.forget(ids=[mine])
    for _ in range(30):
        system.session.coordination.step(0.0)
    states = {request.request_id: request for request in system.ledger.requests()}
    assert states[failing].state is RequestState.FAILED
    assert "damaged" in (states[failing].reason or "")
    assert states[fine].state in {RequestState.SERVED, RequestState.PURGED}
    path.write_bytes(whole)
    system.forget(ids=[mine], strategy="retrain")
    system.close()
    go_on(system)
    assert weights(system) == undisturbed(connect, tmp_path, [mine, other])


def shard_of(system: hybridmu.System, number: int) -> int:
    return int(system.plan(ids=[number]).shards[0].shard)
