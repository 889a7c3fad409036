from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridmu.errors import ConfigError, CorruptBlobError
from hybridmu.store.blobs import Blobs, Storage, open_fs


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(Storage(str(tmp_path / "s")))


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "n": torch.tensor(7), "t": torch.arange(6.0).reshape(2, 3).T}


def file_of(blobs: Blobs, name: str) -> Path:
    return Path(blobs.storage.path(f"blobs/{name[:2]}/{name}.safetensors"))


def test_blobs_are_named_by_their_content(blobs):
    name = blobs.put(state())
    stamp = file_of(blobs, name).stat().st_mtime_ns
    assert blobs.put(state()) == name
    assert file_of(blobs, name).stat().st_mtime_ns == stamp  # written once
    assert blobs.put(state(2.0)) != name
    loaded = blobs.get(name)
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
    name = blobs.put(state())
    blobs.record("ab" * 24, name)
    path = file_of(blobs, name)
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(CorruptBlobError, match=says):
        blobs.get(name)
    assert blobs.load("ab" * 24) is None
    assert blobs.find("ab" * 24) is None  # dropped, so that it is built again
    assert not path.exists()
    assert blobs.put(state()) == name
    assert (blobs.find("ab" * 24) is None) == (spoil is not None)  # a corrupted one is dropped from both maps
    blobs.record("ab" * 24, name)
    assert torch.equal(blobs.load("ab" * 24)["w"], state()["w"])


def test_lineage_is_a_map_apart(blobs):
    name = blobs.put(state())
    assert blobs.find(name) is None
    blobs.record("cd" * 24, name)
    assert blobs.find("cd" * 24) == name
    assert blobs.find("ce" * 24) is None
    assert blobs.load("ce" * 24) is None


@pytest.mark.parametrize("form", ["path", "uri"])
def test_storage_publishes_whole_files(tmp_path, form):
    root = tmp_path / "a b"
    storage = Storage(str(root) if form == "path" else root.as_uri())
    storage.write("x/y.bin", b"1")
    storage.write("x/y.bin", b"22")
    assert (root / "x/y.bin").read_bytes() == storage.read("x/y.bin") == b"22"
    assert [p.name for p in (root / "x").iterdir()] == ["y.bin"]
    assert (storage.exists("x/y.bin"), storage.exists("x"), storage.exists("z")) == (True, False, False)
    storage.delete("x/y.bin")
    storage.delete("x/y.bin")
    storage.delete_folder("x")
    storage.delete_folder("x")
    assert not (root / "x").exists()


@pytest.mark.parametrize("url", ["nosuch://x/y", "s3:/%%"])
def test_unknown_file_systems(url):
    with pytest.raises(ConfigError, match="can't open"):
        open_fs(url)
