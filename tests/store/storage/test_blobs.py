from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridmu.errors import CorruptBlobError
from hybridmu.store.storage.blob_names import blob_file, lineage_file
from hybridmu.store.storage.blobs import Blobs
from hybridmu.store.storage.storage import Storage
from tests.support import flipped

KEY = "ab" * 24


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(Storage(str(tmp_path / "s")))


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "n": torch.tensor(7), "t": torch.arange(6.0).reshape(2, 3).T}


def file_of(blobs: Blobs, ref: str) -> Path:
    return Path(blobs.storage.path(blob_file(ref)))


def test_blobs_are_named_by_shard_and_content(blobs):
    ref = blobs.put(state(), 3)
    shard, name = ref.split("/")
    assert (shard, len(name)) == ("3", 48)
    assert len(f"{10**9}/{name}") <= 64  # the column that holds it
    assert file_of(blobs, ref) == Path(blobs.storage.root) / f"blobs/shard-00003/{name}.safetensors"
    stamp = file_of(blobs, ref).stat().st_mtime_ns
    assert blobs.put(state(), 3) == ref
    assert file_of(blobs, ref).stat().st_mtime_ns == stamp  # written once
    assert blobs.put(state(2.0), 3) != ref
    assert blobs.put(state(), 4) == f"4/{name}"  # equal weights, equal hash
    loaded = blobs.get(ref)
    assert loaded.keys() == state().keys()
    assert all(torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype for key, value in state().items())
    assert list((Path(blobs.storage.root)).rglob("*.tmp")) == []


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (flip, "does not match"),
        (lambda d: d[:-4], "does not match"),
        (lambda d: b"", "does not match"),
        (None, "is missing"),
    ],
)
def test_a_spoiled_blob_is_never_used(blobs, spoil, says):
    ref = blobs.put(state(), 0)
    blobs.record(0, KEY, ref)
    path = file_of(blobs, ref)
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(CorruptBlobError, match=says):
        blobs.get(ref)
    assert blobs.load(0, KEY) is None
    assert blobs.find(0, KEY) is None  # dropped, so that it is built again
    assert not path.exists()
    assert blobs.put(state(), 0) == ref
    assert (blobs.find(0, KEY) is None) == (spoil is not None)  # a corrupted one is dropped from both maps
    blobs.record(0, KEY, ref)
    assert torch.equal(blobs.load(0, KEY)["w"], state()["w"])


def test_a_truncated_blob_is_written_again(blobs):
    ref = blobs.put(state(), 0)
    file_of(blobs, ref).write_bytes(b"half")
    assert blobs.put(state(), 0) == ref
    assert torch.equal(blobs.get(ref)["w"], state()["w"])


def test_lineage_is_a_map_apart(blobs):
    ref = blobs.put(state(), 1)
    assert blobs.find(1, ref) is None
    blobs.record(1, KEY, ref)
    assert blobs.find(1, KEY) == ref
    assert blobs.find(2, KEY) is None
    assert blobs.find(1, "ce" * 24) is None
    assert blobs.load(1, "ce" * 24) is None


def test_a_shard_can_be_swept_without_touching_others(blobs):
    refs = {blobs.put(state(float(i)), 1) for i in range(3)}
    keys = {f"{i:02d}" * 24 for i in range(3)}
    for key, ref in zip(sorted(keys), sorted(refs), strict=True):
        blobs.record(1, key, ref)
    other = blobs.put(state(), 2)
    blobs.record(2, KEY, other)
    assert blobs.listed(1) == (refs, keys)
    assert blobs.listed(7) == (set(), set())
    gone_ref, gone_key = sorted(refs)[0], sorted(keys)[0]
    for _ in range(2):  # an interrupted sweep is repeated
        blobs.drop(1, {gone_ref}, {gone_key})
        assert blobs.listed(1) == (refs - {gone_ref}, keys - {gone_key})
    assert blobs.listed(2) == ({other}, {KEY})
    assert blobs.find(2, KEY) == other


def test_what_a_crash_left_is_found_and_dropped(blobs):
    ref = blobs.put(state(), 1)
    blobs.record(1, KEY, ref)
    left = [f"{blob_file(ref)}.{'0' * 32}.tmp", f"{lineage_file(1, KEY)}.{'1' * 32}.tmp"]
    for name in left:
        Path(blobs.storage.path(name)).write_bytes(b"the first half")
    assert blobs.unfinished(1) == set(left)
    assert blobs.listed(1) == ({ref}, {KEY})
    assert blobs.sizes(1) == {ref: file_of(blobs, ref).stat().st_size}
    blobs.drop(1, (), ())
    assert blobs.unfinished(1) == set()
    assert blobs.find(1, KEY) == ref


def test_a_damaged_file_of_the_right_size_is_written_anew(blobs):
    ref = blobs.put(state(), 3)
    whole = file_of(blobs, ref).read_bytes()
    file_of(blobs, ref).write_bytes(flip(whole))
    assert not blobs.intact(ref)
    assert blobs.put(state(), 3) == ref
    assert file_of(blobs, ref).read_bytes() == whole
    assert blobs.intact(ref)
    file_of(blobs, ref).unlink()
    assert not blobs.intact(ref)


def test_a_run_is_mended_from_its_first_damaged_checkpoint_on(blobs):
    keys = [f"{number:048x}" for number in range(5)]
    refs = [blobs.put(state(float(number)), 3) for number in range(5)]
    for key, ref in zip(keys, refs, strict=True):
        blobs.record(3, key, ref)
    blobs.drop(3, [refs[1]], [keys[1]])  # evicted: nobody misses it
    assert blobs.damaged(3, keys) == []
    file_of(blobs, refs[2]).write_bytes(flip(file_of(blobs, refs[2]).read_bytes()))
    file_of(blobs, refs[4]).unlink()
    assert blobs.damaged(3, keys) == [keys[2], keys[4]]
    blobs.mend(3, keys)
    assert [blobs.find(3, key) for key in keys] == [refs[0], None, None, None, None]
    blobs.mend(3, keys)
    assert blobs.find(3, keys[0]) == refs[0]


@pytest.mark.parametrize("text", [b"", b"3", b"3/", b"x/" + b"a" * 48, b"4/" + b"a" * 48, b"\xff" * 50, b"3/../../x"])
def test_a_damaged_entry_names_nothing(blobs, text):
    blobs.storage.write(lineage_file(3, KEY), text)
    assert blobs.find(3, KEY) is None
    assert blobs.load(3, KEY) is None
    assert blobs.damaged(3, [KEY]) == [KEY]


@pytest.mark.slow
def test_no_flipped_bit_of_an_entry_names_another_blob(blobs):
    refs = [blobs.put(state(float(n)), 3) for n in range(2)]
    blobs.record(3, KEY, refs[0])
    whole = blobs.storage.read(lineage_file(3, KEY))
    for position in range(8 * len(whole)):
        blobs.storage.write(lineage_file(3, KEY), flipped(whole, position))
        assert blobs.find(3, KEY) is None


def test_an_entry_belongs_to_its_own_name(blobs):
    """A file that was restored under another name would let a retrain start from rows that it must not see."""
    blobs.record(3, KEY, blobs.put(state(), 3))
    other = "cd" * 24
    blobs.storage.write(lineage_file(3, other), blobs.storage.read(lineage_file(3, KEY)))
    assert blobs.find(3, KEY)
    assert blobs.find(3, other) is None


def test_an_entry_of_an_older_release_is_taken_over_if_the_ledger_says_the_same(blobs):
    refs = [blobs.put(state(float(n)), 3) for n in range(2)]
    blobs.storage.write(lineage_file(3, KEY), refs[0].encode())
    assert blobs.find(3, KEY) is None
    blobs.adopt(3, KEY, refs[1])
    assert blobs.find(3, KEY) is None
    blobs.adopt(3, KEY, refs[0])
    assert blobs.find(3, KEY) == refs[0]
