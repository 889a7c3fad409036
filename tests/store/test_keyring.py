"""Keys: made once, readable by their owner alone, rotated without losing what checks old entries."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from hybridmu.config import Settings
from hybridmu.errors import ConfigError, DataError, StateError
from hybridmu.store.keyring import Keyring, Uses, load_public_keys
from hybridmu.verifier.plain_data import key_id
from tests.support import HANG_SECONDS, flipped, local_system, settings_dict


def keyring(folder: Path, **keys: str) -> Keyring:
    return Keyring(Settings.parse(settings_dict(folder, keys=keys)))


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "storage-keys").iterdir()}


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def pem(key, password: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def test_nothing_is_made_before_it_is_needed(tmp_path):
    ring = keyring(tmp_path)
    assert (ring.public_keys(), ring.guard_keys(), ring.macs("id", [1, 2])) == ({}, (), {})
    assert not (tmp_path / "storage-keys").exists()


def test_keys_are_made_on_first_use_beside_storage_for_their_owner_alone(tmp_path):
    ring = keyring(tmp_path)
    public = raw(ring.signing_key())
    name, _ = ring.mac("id", 7)
    assert files(tmp_path) == {"signing-0001.pem", "signing-0001.pub.pem", "guard-0001.hex", "guard-0001.id"}
    folder = tmp_path / "storage-keys"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {(folder / file).stat().st_mode & 0o777 for file in ("signing-0001.pem", "guard-0001.hex")} == {0o600}
    again = keyring(tmp_path)
    assert (raw(again.signing_key()), again.guard_keys()) == (public, (name,))
    assert again.public_keys() == {key_id(public): public}
    assert not (tmp_path / "storage").exists()


def test_the_mac_is_the_definition(tmp_path):
    ring = keyring(tmp_path)
    name, found = ring.mac("id", 7)
    key = bytes.fromhex((tmp_path / "storage-keys" / "guard-0001.hex").read_text())
    assert found == hmac.new(key, b"hybridmu guard id\0i7", hashlib.sha256).digest()
    assert name == hmac.new(key, b"hybridmu guard key id", hashlib.sha256).hexdigest()[:16]
    values = [7, "7", "i7", "seven"]
    macs = ring.macs("id", values)
    assert macs == {name: [ring.mac("id", value)[1] for value in values]}
    both = {*macs[name], *ring.macs("group", values)[name]}
    assert len(both) == 8
    with pytest.raises(DataError):
        ring.mac("id", 1.5)


_RACE = """
import sys
from hybridmu.config import Settings
from hybridmu.store.keyring import Keyring
ring = Keyring(Settings.parse({"data": {"train": "t"}, "storage_url": sys.argv[1]}))
print("ready", flush=True)
sys.stdin.readline()
print(ring.signing_key().public_key().public_bytes_raw().hex(), ring.mac("id", 1)[1].hex())
"""


@pytest.mark.slow
def test_processes_that_start_at_once_end_with_one_key(tmp_path):
    command = [sys.executable, "-c", _RACE, str(tmp_path / "storage")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=HANG_SECONDS)[0] for racer in racers]
    assert said[0]
    assert len(set(said)) == 1
    assert files(tmp_path) == {"signing-0001.pem", "signing-0001.pub.pem", "guard-0001.hex", "guard-0001.id"}


@pytest.mark.parametrize("name", ["signing-0001.pem", "guard-0001.hex", "."])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, name, mode):
    ring = keyring(tmp_path)
    ring.signing_key()
    ring.mac("id", 1)
    path = tmp_path / "storage-keys" / name
    path.chmod(mode | (0o110 if name == "." else 0))
    with pytest.raises(ConfigError, match=r"chmod [67]00") as refused:
        ring.mac("id", 1) if name.startswith("guard") else ring.signing_key()
    assert str(path.resolve()) in str(refused.value)


def test_rotating_the_signing_key_leaves_only_its_public_part(tmp_path):
    ring = keyring(tmp_path)
    publics = [raw(ring.signing_key())]
    for _ in range(2):
        name = ring.rotate("signing", 0)
        publics.append(raw(ring.signing_key()))
        assert name == key_id(publics[-1])
    assert len(set(publics)) == 3
    assert list(ring.public_keys().items()) == [(key_id(public), public) for public in publics]
    assert files(tmp_path) == {"signing-0003.pem", *(f"signing-000{n}.pub.pem" for n in (1, 2, 3))}
    for public, path in zip(publics, sorted((tmp_path / "storage-keys").glob("*.pub.pem")), strict=True):
        assert load_public_keys(path.read_bytes()) == [public]


def test_a_rotation_that_was_interrupted_is_finished(tmp_path):
    ring = keyring(tmp_path)
    old = raw(ring.signing_key())
    folder = tmp_path / "storage-keys"
    kept = (folder / "signing-0001.pem").read_bytes()
    new = ring.rotate("signing", 0)
    for left in ("signing-0001.pem", "signing-0001.retired"):  # killed before it was renamed, and before it was erased
        (folder / left).write_bytes(kept)
        (folder / left).chmod(0o600)
        (folder / "signing-0001.pub.pem").unlink() if left.endswith("pem") else None
        assert list(ring.public_keys()) == [key_id(old), new]
        assert key_id(raw(ring.signing_key())) == new
        assert files(tmp_path) == {"signing-0002.pem", "signing-0001.pub.pem", "signing-0002.pub.pem"}


def test_rotating_the_guard_key_keeps_the_old_ones_for_checking(tmp_path):
    ring = keyring(tmp_path)
    old, mac = ring.mac("id", 1)
    new = ring.rotate("guard", 0)
    assert ring.guard_keys() == (old, new)
    assert ring.mac("id", 1)[0] == new
    macs = ring.macs("id", [0, 1])
    assert [*macs] == [old, new]
    assert macs[old][1] == mac
    assert macs[new][1] != mac


def test_a_lost_signing_key_is_not_replaced_silently(tmp_path):
    ring = keyring(tmp_path)
    old = raw(ring.signing_key())
    (tmp_path / "storage-keys" / "signing-0001.pem").unlink()
    with pytest.raises(StateError, match="rotate signing"):
        ring.signing_key()
    assert ring.public_keys() == {key_id(old): old}
    new = ring.rotate("signing", 0)
    assert list(ring.public_keys()) == [key_id(old), new]


def test_a_lost_guard_key_is_missing_from_those_that_are_there(tmp_path):
    ring = keyring(tmp_path)
    first, _ = ring.mac("id", 1)
    second = ring.rotate("guard", 0)
    (tmp_path / "storage-keys" / "guard-0001.hex").unlink()
    assert ring.guard_keys() == (second,)
    assert first not in ring.macs("id", [1])
    assert ring.rotate("guard", 0) not in (first, second)
    assert len(ring.guard_keys()) == 2


def test_a_lost_guard_key_is_not_replaced_silently_and_its_number_stays_taken(tmp_path):
    ring, folder = keyring(tmp_path), tmp_path / "storage-keys"
    old, mac = ring.mac("id", 1)
    kept = (folder / "guard-0001.hex").read_bytes()
    (folder / "guard-0001.hex").unlink()
    with pytest.raises(StateError, match="rotate guard"):
        ring.mac("id", 1)
    new = ring.rotate("guard", 0)
    assert "guard-0002.hex" in files(tmp_path)
    (folder / "guard-0001.hex").write_bytes(kept)  # as docs/keys.md asks for
    (folder / "guard-0001.hex").chmod(0o600)
    assert ring.guard_keys() == (old, new)
    assert ring.macs("id", [1])[old] == [mac]


def test_a_lost_folder_is_not_replaced_silently(tmp_path):
    """Its numbers are lost with it: what was used before is asked of who knows."""
    ring = keyring(tmp_path)
    with pytest.raises(StateError, match="guard key is lost"):
        ring.stamp(Uses(frozenset({"0123456789abcdef"}), before=True))
    with pytest.raises(StateError, match="signing key is lost"):
        ring.signing_key(last="0123456789abcdef")
    ring.rotate("guard", used=2)
    ring.rotate("signing", used=1)
    assert {"guard-0003.hex", "signing-0002.pem"} <= files(tmp_path)
    ring.stamp(Uses(frozenset({"0123456789abcdef"}), before=True))
    ring.signing_key(last="0123456789abcdef")


def test_a_foreign_signing_key_does_not_take_the_place_of_a_lost_one(tmp_path):
    ring, other = keyring(tmp_path), keyring(tmp_path / "other")
    last = key_id(raw(ring.signing_key()))
    other.signing_key()
    for name in ("signing-0001.pem", "signing-0001.pub.pem"):
        path = ring.settings.keys_folder / name
        path.write_bytes((other.settings.keys_folder / name).read_bytes())
    with pytest.raises(StateError, match=f"signing key is lost(.|\n)*{last}"):
        ring.signing_key(last, lambda: {last})
    new = ring.rotate("signing", 1)
    assert key_id(raw(ring.signing_key(last, lambda: {last}))) == new


def test_the_newest_signing_key_is_missed_where_an_older_one_is_there(tmp_path):
    ring, folder = keyring(tmp_path), tmp_path / "storage-keys"
    first = key_id(raw(ring.signing_key()))
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    second = ring.rotate("signing", 1)
    assert key_id(raw(ring.signing_key(first, lambda: {first}))) == second
    for path in folder.iterdir():
        path.unlink()
    for path, content in kept.items():  # a backup of before the rotation
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(StateError, match="signing key is lost"):
        ring.signing_key(second, lambda: {first, second})


@pytest.mark.parametrize("name", ["guard-0001.hex", "guard-0001.id", "signing-0001.pem", "signing-0001.pub.pem"])
def test_a_folder_in_the_place_of_a_key_file_is_an_error_with_a_remedy(tmp_path, name):
    ring = keyring(tmp_path)
    ring.mac("id", 1), ring.signing_key()
    path = tmp_path / "storage-keys" / name
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=r"a key file can't be read(.|\n)*a folder"):
        ring.mac("id", 1) if name.startswith("guard") else ring.signing_key()
    with pytest.raises(ConfigError, match="a key file can't be read"):
        ring.macs("id", [1]) if name.startswith("guard") else ring.public_keys()


@pytest.mark.parametrize("name", ["guard-0001.hex", "guard-0001.id", "signing-0001.pem", "signing-0001.pub.pem"])
def test_no_flipped_bit_of_a_key_file_makes_another_key(tmp_path, name):
    ring = keyring(tmp_path)
    known = (ring.mac("id", 1), raw(ring.signing_key()))
    path = tmp_path / "storage-keys" / name
    whole = path.read_bytes()
    for position in range(0, 8 * len(whole), 3):
        path.write_bytes(flipped(whole, position))
        with suppress(ConfigError):
            assert (ring.mac("id", 1), raw(ring.signing_key())) == known
    path.write_bytes(whole)
    assert (ring.mac("id", 1), raw(ring.signing_key())) == known


def test_keys_from_elsewhere(tmp_path, monkeypatch):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    monkeypatch.setenv("MY_SIGNING", pem(key).decode())
    guard = tmp_path / "guard.txt"
    guard.write_text(f"{'11' * 32}\n{'22' * 32}\n")
    guard.chmod(0o600)
    # A relative path is made absolute, and keys made in the folder before stay known.
    before, (own, _) = raw(keyring(tmp_path).signing_key()), keyring(tmp_path).mac("id", 1)
    monkeypatch.chdir(tmp_path)
    ring = keyring(tmp_path, signing="env:MY_SIGNING", guard="file:guard.txt")
    monkeypatch.chdir("/")
    assert raw(ring.signing_key()) == raw(key)
    assert list(ring.public_keys().values()) == [before, raw(key)]
    assert len(ring.guard_keys()) == 3
    assert ring.guard_keys()[0] == own
    assert ring.mac("id", 1)[1] == hmac.digest(b"\x22" * 32, b"hybridmu guard id\0i1", "sha256")
    for which in ("signing", "guard"):
        with pytest.raises(ConfigError, match="not kept by this system"):
            ring.rotate(which, 0)
    monkeypatch.setenv("MY_SIGNING", other.private_bytes_raw().hex())
    assert raw(ring.signing_key()) == raw(other)
    guard.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        ring.mac("id", 1)


def test_bad_sources_are_refused_without_showing_them(tmp_path, monkeypatch):
    rsa = generate_private_key(65537, 2048)
    key = Ed25519PrivateKey.generate()
    for text in ("00" * 31, "secret words", pem(rsa).decode(), pem(key, b"password").decode()):
        monkeypatch.setenv("MY_KEY", text)
        with pytest.raises(ConfigError, match="Ed25519 private key") as refused:
            keyring(tmp_path, signing="env:MY_KEY").signing_key()
        assert text not in str(refused.value)
        with pytest.raises(ConfigError, match="64 hex digits") as refused:
            keyring(tmp_path, guard="env:MY_KEY").mac("id", 1)
        assert text not in str(refused.value)
    for source in ("env:NO_SUCH", f"file:{tmp_path / 'none'}"):
        with pytest.raises(ConfigError, match="can't be read"):
            keyring(tmp_path, signing=source).signing_key()
        with pytest.raises(ConfigError, match="can't be read"):
            keyring(tmp_path, guard=source).macs("id", [1])
    with pytest.raises(ConfigError, match="env:NAME or file:PATH") as refused:
        keyring(tmp_path, guard="11" * 32)
    assert "11" * 32 not in str(refused.value)


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/none"])
def test_a_folder_that_can_not_be_made_is_named_before_anything_is_stored(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    system = local_system(tmp_path, keys={"folder": str(tmp_path / folder)})
    with pytest.raises(ConfigError, match=r"keys\.folder") as no:
        system.train()
    assert str(tmp_path / folder) in str(no.value)
    assert "storage_url" not in str(no.value)
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("which", ["signing", "guard"])
@pytest.mark.parametrize("source", ["env:NOT_SET_ANYWHERE", "file:{}/none", "file:{}/words", "file:{}/words/x"])
def test_a_key_from_elsewhere_is_read_before_anything_is_stored(tmp_path, which, source):
    (tmp_path / "words").write_text("no key at all")
    (tmp_path / "words").chmod(0o600)
    system = local_system(tmp_path, keys={which: source.format(tmp_path)})
    with pytest.raises(ConfigError, match=which):
        system.train()
    assert not (tmp_path / "storage").exists()


def test_a_folder_with_all_keys_need_not_be_written_to(tmp_path):
    ring = keyring(tmp_path)
    ring.signing_key()
    ring.mac("id", 1)
    (tmp_path / "storage-keys").chmod(0o500)
    ring.check()


def test_the_folder(tmp_path):
    def of(**raw) -> Path:
        return Settings.parse({"data": {"train": "t"}, **raw}).keys_folder

    assert of(storage_url="/data/x") == of(storage_url="file:///data/x") == Path("/data/x-keys")
    assert of(storage_url="s3://b/x", keys={"folder": "/k"}) == Path("/k")
    with pytest.raises(ConfigError, match=r"keys\.folder"):
        of(storage_url="s3://b/x")


@pytest.mark.parametrize(
    "place", ["storage", "storage/keys", "storage/lake/deep", "disk/keys", "other/../storage/k", "alias/keys", "way"]
)
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("what", ["folder", "signing", "guard", "partition"])
def test_no_key_lies_in_storage(tmp_path, monkeypatch, place, linked, what):
    """By its name, through links, from another folder, and whichever key it is."""
    storage, disk = tmp_path / "storage", tmp_path / "disk"
    disk.mkdir()
    if linked:
        storage.symlink_to(disk)
    elif place == "disk/keys":
        place = "storage/keys"
    (tmp_path / "alias").symlink_to(storage)
    (tmp_path / "way").symlink_to(storage / "keys")
    raw_settings = settings_dict(tmp_path)
    monkeypatch.chdir(tmp_path)
    if what == "partition":
        raw_settings["data"]["partition_key"] = f"file:{place}"
    else:
        raw_settings["keys"] = {what: place if what == "folder" else f"file:{place}"}
    with pytest.raises(ConfigError, match="is inside storage_url"):
        Settings.parse(raw_settings)


def test_no_key_lies_in_storage_by_a_link_that_leads_out_or_by_the_name_of_its_default_folder(tmp_path):
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "keys").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="is inside storage_url"):
        Settings.parse(settings_dict(tmp_path, keys={"folder": str(storage / "keys")}))
    (tmp_path / "storage-keys").symlink_to(storage / "deep")
    with pytest.raises(ConfigError, match=r"keys\.folder is inside storage_url"):
        Settings.parse(settings_dict(tmp_path))


@pytest.mark.parametrize(
    "section",
    [
        {"keys": {"folder": "~nobody-here/k"}},
        {"keys": {"guard": "file:~nobody-here/k"}},
        {"data": {"train": "t", "partition_key": "file:~nobody-here/k"}},
    ],
)
def test_a_key_of_a_user_that_is_not_there_is_a_fault_of_the_configuration(tmp_path, section):
    with pytest.raises(ConfigError, match="nobody-here"):
        Settings.parse({**settings_dict(tmp_path), **section})


def test_a_key_folder_may_lie_beside_or_above_storage_and_the_ledger_in_it(tmp_path):
    for folder in (tmp_path, tmp_path / "storage-keys", tmp_path / "storage2", tmp_path.parent):
        database = f"sqlite:///{tmp_path / 'storage' / 'ledger.sqlite3'}"
        keys = {"folder": str(folder), "guard": f"file:{folder}/guard"}
        assert Settings.parse(settings_dict(tmp_path, keys=keys, database_url=database)).keys_folder == folder


def test_remote_storage_needs_a_folder_only_for_keys_that_are_files(tmp_path, monkeypatch):
    monkeypatch.setenv("A", "33" * 32)
    raw_settings = settings_dict(tmp_path, storage_url="s3://bucket/x")
    ring = Keyring(Settings.parse({**raw_settings, "keys": {"guard": "env:A", "signing": "env:A"}}))
    assert len(ring.guard_keys()) == len(ring.public_keys()) == 1
    with pytest.raises(ConfigError, match=r"keys\.folder"):
        Keyring(Settings.parse(raw_settings)).mac("id", 1)


def test_public_keys_for_auditors():
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    text = b"# ours\n" + b"".join(key.public_key().public_bytes(encoding, form) for key in keys)
    assert load_public_keys(text) == [raw(key) for key in keys]
    assert load_public_keys("\n".join(raw(key).hex() for key in keys).encode()) == [raw(key) for key in keys]
    rsa = generate_private_key(65537, 2048).public_key().public_bytes(encoding, form)
    for bad in (b"", b"\xff\xfe", b"00", rsa, pem(keys[0])):
        with pytest.raises(ConfigError, match="public key"):
            load_public_keys(bad)
