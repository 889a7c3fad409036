"""Certificates in storage: appended, never overwritten; and the verbs that look at them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.config import Settings
from hybridmu.core.proof.certificate import sign
from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring
from hybridmu.store.storage.storage import Storage
from hybridmu.verifier.plain_data import canonical
from hybridmu.verifier.statements import NOT_PROVEN
from tests import reference_certificate
from tests.sample_certificates import KEY, OTHER, PUBLIC, PURGE, chain_of, made, mixed, shard_evidence, signed
from tests.support import settings_dict


@pytest.fixture
def store(tmp_path) -> Certificates:
    return Certificates(Storage(str(tmp_path / "storage")))


def test_they_are_read_as_they_were_written(store, tmp_path):
    assert (store.last(), store.all(), store.numbers()) == (None, [], [])
    assert not (tmp_path / "storage").exists()
    documents = chain_of(3)
    assert [store.append(document) for document in documents] == [1, 2, 3]
    assert store.all() == documents
    assert (store.get(2), store.last()) == (documents[1], documents[2])
    names = sorted(path.name for path in (tmp_path / "storage" / "certificates").iterdir())
    assert names == ["00000001.json", "00000002.json", "00000003.json"]
    assert (tmp_path / "storage" / "certificates" / "00000002.json").read_bytes() == canonical(documents[1])
    with pytest.raises(StateError, match="no certificate 4"):
        store.get(4)


def test_a_number_is_never_overwritten(store):
    documents = chain_of(3)
    other = sign(made(system="07e4"), KEY)
    store.append(documents[0])
    assert store.append(documents[0]) == 1  # a crash made its writer repeat it
    for wrong in (other, documents[2], sign({**documents[1], "previous": "0" * 64}, KEY), sign(made(), OTHER)):
        with pytest.raises(StateError, match="does not follow"):
            store.append(wrong)
    assert store.all() == documents[:1]
    store.append(documents[1])
    with pytest.raises(StateError, match="does not follow"):
        store.append(other)
    assert store.append(documents[0]) == 1
    assert store.all() == documents[:2]


def test_of_writers_at_the_same_moment_one_wins(store):
    rivals = [sign(made(purge={**PURGE, "files": number}), KEY) for number in range(8)]
    barrier = Barrier(len(rivals))

    def write(document) -> bool:
        mine = Certificates(Storage(store.storage.url))
        barrier.wait()
        try:
            mine.append(document)
        except StateError:
            return False
        return True

    with ThreadPoolExecutor(len(rivals)) as pool:
        won = list(pool.map(write, rivals))
    assert sum(won) == 1
    assert store.all() == [rivals[won.index(True)]]
    assert [file.name for file in store.storage.list()] == ["certificates/00000001.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a":1,"a":2}'])
def test_a_damaged_file_is_said_to_be_damaged(store, data):
    store.append(signed())
    store.storage.write("certificates/00000001.json", data)
    with pytest.raises(CorruptBlobError, match="backup"):
        store.get(1)


def test_unfinished_writes_are_no_certificates(store):
    store.append(signed())
    store.storage.write(f"certificates/00000002.json.{'0f' * 16}.tmp", b"{")
    assert store.numbers() == [1]


# ---------------------------------------------------------------------- the command line


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit)
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """What an auditor was given: a chain of three, and the public key."""
    folder = tmp_path / "audit"
    folder.mkdir()
    for document in chain_of(3):
        (folder / f"{document['number']:08d}.json").write_bytes(canonical(document))
    (tmp_path / "key.txt").write_text(PUBLIC.hex())
    (tmp_path / "other.txt").write_text(OTHER.public_key().public_bytes_raw().hex())
    return folder


def test_verify_needs_nothing_but_the_file(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = folder / "00000002.json"
    said = run("certificate", "verify", file, "--without-key")
    assert "Certificate 2 of system 5f0c holds" in said
    assert PUBLIC.hex() in said
    assert "DOES NOT" not in said
    trusted = run("certificate", "verify", file, "--public-key", tmp_path / "key.txt", "--chain", folder)
    assert "anybody" not in trusted
    result = json.loads(run("certificate", "verify", file, "--chain", folder, "--json", code=5))
    assert (result["ok"], result["trusted_key_given"], result["exit_code"]) == (True, False, 5)
    assert "were in the slices" in result["shows"][0]
    assert "--public-key" in run("certificate", "verify", file, code=5)
    assert all(finding["ok"] for finding in result["findings"])
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(json.loads(file.read_text()), indent=4))
    run("certificate", "verify", pretty, "--chain", folder, "--without-key")


def test_a_strangers_chain_is_nobodys_until_a_key_says_so(folder, tmp_path):
    """Anybody can sign a whole chain; a chain is the operator's if every certificate of it is."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    documents = chain_of(3, OTHER)
    for document in documents:
        (stranger / f"{document['number']}.json").write_bytes(canonical(document))
    run("certificate", "verify", stranger / "2.json", "--chain", stranger, code=5)
    run("certificate", "verify", stranger / "2.json", "--chain", stranger, "--without-key")
    run("certificate", "verify", stranger / "2.json", "--chain", stranger, "--public-key", tmp_path / "key.txt", code=1)
    mixed = sign(made(chain_of(2)[-1], [shard_evidence((2,))]), OTHER)
    (folder / "00000003.json").write_bytes(canonical(mixed))
    file = folder / "00000002.json"
    run("certificate", "verify", file, "--public-key", tmp_path / "key.txt")
    run("certificate", "verify", file, "--public-key", tmp_path / "key.txt", "--chain", folder, code=1)
    run("certificate", "verify", file, "--public-key", tmp_path / "key.txt", "--without-key", code=2)


def test_the_reference_is_a_program_of_its_own(folder, tmp_path):
    def call(*arguments: object) -> int:
        command = [sys.executable, reference_certificate.__file__, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=tmp_path).returncode

    files = sorted(folder.iterdir())
    assert call(*files, "--chain", "--key", tmp_path / "key.txt") == 0
    assert call(files[0], "--key", PUBLIC.hex()) == 0
    assert call(files[0]) == 5
    assert call(files[0], "--key", tmp_path / "other.txt") == 1
    assert call(*files[1:], "--chain", "--key", PUBLIC.hex()) == 1
    files[0].write_bytes(files[0].read_bytes().replace(b'"kind":"forget"', b'"kind":"correct"'))
    assert call(files[0], "--key", PUBLIC.hex()) == 1
    assert call(tmp_path / "none") == call() == 2


def test_verify_fails_when_anything_does_not_hold(folder, tmp_path):
    file = folder / "00000002.json"
    said = run("certificate", "verify", file, "--public-key", tmp_path / "other.txt", code=1)
    assert "DOES NOT HOLD" in said
    assert "trusted one" in said
    document = json.loads(file.read_text())
    document["request"]["kind"] = "correct"
    changed = tmp_path / "changed.json"
    for data in (canonical(document), canonical(sign(document, KEY)), b"{", b"\xff", b"[]", b'{"a":1,"a":1}', b"[NaN]"):
        changed.write_bytes(data)
        result = json.loads(run("certificate", "verify", changed, "--chain", folder, "--json", code=1))
        assert not result["ok"]
    run("certificate", "verify", changed, code=1)
    (folder / "00000001.json").unlink()
    run("certificate", "verify", file, "--without-key")
    assert "DOES NOT HOLD" in run("certificate", "verify", file, "--chain", folder, code=1)
    for arguments in ((tmp_path / "none.json",), (file, "--public-key", file), (file, "--chain", tmp_path / "none")):
        assert json.loads(run("certificate", "verify", *arguments, "--json", code=2))["error"]


def test_what_a_certificate_does_not_show_is_said_in_our_words(tmp_path):
    """What a document says of itself is its signer's; that of an earlier release may be less than there is to say."""
    file, boast = tmp_path / "one.json", "Nothing: this certificate proves everything."
    file.write_bytes(canonical(sign({**mixed(), "not_proven": [boast]}, KEY)))
    said = run("certificate", "verify", file, "--without-key", code=1)
    assert "DOES NOT HOLD  it says what it does not show" in said
    assert boast not in said
    earlier = sign({**mixed(), "not_proven": list(NOT_PROVEN)}, KEY)
    file.write_bytes(canonical(earlier))
    said = run("certificate", "verify", file, "--without-key")
    assert "1 of 2 keys have a proof." in said.partition("What it does not show:")[2]
    result = json.loads(run("certificate", "verify", file, "--without-key", "--json"))
    assert "1 of 2 keys have a proof." in result["shows"]
    assert result["does_not_show"] == [*NOT_PROVEN, mixed()["not_proven"][-1]]


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings_dict(tmp_path)))
    return path


def test_list_and_show(config, folder, tmp_path):
    assert "no certificates" in run("certificate", "list", "-c", config)
    assert not (tmp_path / "storage").exists()
    shutil.copytree(folder, tmp_path / "storage" / "certificates")
    listed = json.loads(run("certificate", "list", "-c", config, "--json"))
    assert [(row["number"], row["keys"], row["shards"]) for row in listed] == [(n, 2, 1) for n in (1, 2, 3)]
    assert "request-1" in run("certificate", "list", "-c", config)
    stored = json.loads((folder / "00000002.json").read_text())
    assert json.loads(run("certificate", "show", "2", "-c", config)) == stored
    assert json.loads(run("certificate", "show", "2", "-c", config, "--json")) == stored
    assert json.loads(run("certificate", "show", "9", "-c", config, "--json", code=2))["error"] == "StateError"


def test_keys_show_and_rotate(config, tmp_path):
    assert "none yet" in run("keys", "show", "-c", config)
    assert not (tmp_path / "storage-keys").exists()
    first = json.loads(run("keys", "rotate", "signing", "-c", config, "--json"))["key_id"]
    second = json.loads(run("keys", "rotate", "signing", "-c", config, "--json"))["key_id"]
    guard = json.loads(run("keys", "rotate", "guard", "-c", config, "--json"))["key_id"]
    result = json.loads(run("keys", "show", "-c", config, "--json"))
    assert list(result["signing"]["public_keys"]) == [first, second]
    assert result["guard"]["key_ids"] == [guard]
    said = run("keys", "show", "-c", config)
    assert f"{first}  old" in said
    assert f"{second}  in use" in said
    secrets = [
        path.read_text()
        for path in (tmp_path / "storage-keys").iterdir()
        if path.suffix in {".pem", ".hex"} and ".pub." not in path.name
    ]
    assert len(secrets) == 2
    assert not any(line in said for secret in secrets for line in secret.split())
    run("keys", "rotate", "partition", "-c", config, code=2)


def test_find_says_which_certificates_are_about_somebody(config, tmp_path):
    settings = Settings.parse(yaml.safe_load(config.read_text()))
    keyring, storage = Keyring(settings), Storage(settings.storage_url)
    old = {7: keyring.mac("id", 7), "7": keyring.mac("id", "7")}
    keyring.rotate("guard", 0)
    new = {"p": keyring.mac("group", "p"), 8: keyring.mac("id", 8)}
    documents = chain_of(3)
    for document, keys in zip(documents, ([old[7]], [old["7"], new[8]], [new["p"]]), strict=True):
        kind = "group" if keys == [new["p"]] else "id"
        document["keys"] = [{"kind": kind, "mac": mac.hex(), "key_id": name} for name, mac in keys]
        storage.write(f"certificates/{document['number']:08d}.json", canonical(sign(document, KEY)))
    found = json.loads(run("certificate", "find", "-c", config, "--id", "7", "--id", "8", "--group", "p", "--json"))
    assert [each["certificates"] for each in found] == [[1, 2], [2], [3]], "by every guard key, as number and as text"
    assert run("certificate", "find", "-c", config, "--id", "p", "--group", "p", code=1) == "id p: none\ngroup p: 3\n"
    assert "none" in run("certificate", "find", "-c", config, "--id", "--5", code=1)
    run("certificate", "find", "-c", config, code=2)
