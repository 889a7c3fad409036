"""The verifier's command: exit code 0 only on what was asked, one JSON document, errors in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridmu.verifier.__main__ import main
from tests import sample_certificates as made
from tests.verifier import certificates


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A chain of two certificates with the operator's key beside it."""
    certificates.write(tmp_path, dict(enumerate(made.chain_of(2))))
    return tmp_path


def called(*words: object) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


def test_without_a_key_it_is_no_success(given, capsys):
    assert called(given / "0001.json") == 5
    printed = capsys.readouterr().out
    assert "Nobody is authenticated" in printed
    assert "Exit code 5" in printed
    assert called(given / "0001.json", "--without-key") == 0


@pytest.mark.parametrize("form", ["pem", "hex", "two"])
def test_with_the_key_it_holds(given, form, capsys):
    key = given / "operator.pub.pem"
    if form != "pem":
        lines = [made.PUBLIC.hex(), *([made.OTHER.public_key().public_bytes_raw().hex()] if form == "two" else [])]
        key = given / "keys.txt"
        key.write_text("\n".join(lines))
    assert called(given / "0001.json", given / "0002.json", "--public-key", key, "--chain", given) == 0
    printed = capsys.readouterr().out
    assert printed.count("What it does not show:") == 2
    assert "Nobody" not in printed


def test_another_key_or_a_missing_certificate_is_told(given, capsys):
    other = given / "other.txt"
    other.write_text(made.OTHER.public_key().public_bytes_raw().hex())
    assert called(given / "0001.json", "--public-key", other) == 1
    assert "DOES NOT HOLD" in capsys.readouterr().out
    (given / "0001.json").rename(given / "0001.txt")
    words = ("--public-key", given / "operator.pub.pem", "--chain", given)
    assert called(given / "0002.json", *words) == 1
    # One bad among good ones is no success.
    assert called(given / "0002.json", given / "other.txt", "--without-key") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["missing.json"],
        ["0001.json", "--public-key", "0001.json"],
        ["0001.json", "--public-key", "missing"],
        ["0001.json", "--public-key", "operator.pub.pem", "--without-key"],
        ["0001.json", "0002.json", "--without-key", "--html", "page.html"],
        ["0001.json", "--without-key", "--chain", "missing"],
        ["0001.json", "--without-key", "--html", "missing/page.html"],
        ["0001.json", "--without-keys"],
    ],
)
def test_a_wrong_call_is_an_error_and_writes_no_page(given, words, monkeypatch, capsys):
    monkeypatch.chdir(given)
    assert called(*words) == 2
    assert not (given / "page.html").exists()
    printed = capsys.readouterr()
    assert printed.err
    assert not printed.out


@pytest.mark.parametrize("data", [b"", b"{", b'{"number":1,"number":2}', b"[" * 100_000, b"\xff", b"[NaN]", b"7"])
def test_what_is_no_certificate_does_not_hold(tmp_path, data, capsys):
    (tmp_path / "x.json").write_bytes(data)
    assert called(tmp_path / "x.json", "--without-key", "--json", "--html", tmp_path / "x.html") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["exit_code"], document["certificates"][0]["shows"]) == (1, [])
    assert "DOES NOT HOLD" in (tmp_path / "x.html").read_text()


def test_names_that_steer_a_terminal_are_not_printed(tmp_path, capsys):
    file = tmp_path / "\x1b[31mred.json"
    file.write_text('{"\\u001b[2J": 1}')
    assert called(file, file, "--without-key") == 1
    assert called(tmp_path / "\x1b[31m") == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
