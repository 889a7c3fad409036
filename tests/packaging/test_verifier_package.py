"""The small package of the verifier: its files, and its command where `cryptography` is all there is."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile

import pytest

from tests import sample_certificates as made
from tests.packaging import clean
from tests.verifier import certificates

FOLDER = clean.ROOT / "packages" / "hybridmu-verify"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]


def test_it_needs_cryptography_alone():
    assert [re.split("[<>=]", need)[0] for need in PROJECT["dependencies"]] == ["cryptography"]
    main = tomllib.loads((clean.ROOT / "pyproject.toml").read_text())["project"]
    assert PROJECT["dependencies"][0] in main["dependencies"]
    assert PROJECT["requires-python"] == main["requires-python"]


@pytest.mark.slow
def test_it_says_the_same_from_a_wheel_and_as_one_file(tmp_path):
    source = clean.sources(tmp_path / "project")
    packed = clean.build(source / "packages" / "hybridmu-verify", tmp_path / "dist")
    stem = f"hybridmu_verify-{clean.VERSION}"
    assert [path.name for path in packed] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    files = {path.name for path in (clean.ROOT / "hybridmu" / "verifier").glob("*.py")}
    inside = {name.partition("/")[2] for name in zipfile.ZipFile(packed[0]).namelist() if name.endswith(".py")}
    assert inside == files

    binaries = clean.environment(tmp_path / "env", PROJECT["dependencies"])
    clean.install(binaries, packed[0])
    # pip takes a 0 there for "no isolation".
    offline = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    clean.run("make", "--silent", "verifier", f"PYTHON={sys.executable}", cwd=source, **offline)
    single = source / "dist" / "hybridmu-verify.pyz"

    documents = {"good": made.signed(), "forged": certificates.forgeries()["an update called exact"]}
    files_of = certificates.write(tmp_path / "given", documents)
    (tmp_path / "away").mkdir()
    for command in ([binaries / "hybridmu-verify"], [binaries / "python", single]):

        def called(*words: object, command=command):
            return clean.run(*command, *words, cwd=tmp_path / "away", check=False)

        key = tmp_path / "given" / "operator.pub.pem"
        assert called("--version").stdout.strip() == clean.VERSION
        found = called(files_of["good"], "--public-key", key, "--json", "--html", "page.html")
        assert (found.returncode, json.loads(found.stdout)["exit_code"]) == (0, 0)
        assert "Certificate of deletion" in (tmp_path / "away" / "page.html").read_text()
        assert called(files_of["good"]).returncode == 5
        assert called(files_of["forged"], "--public-key", key).returncode == 1
        assert called("missing.json").returncode == 2
