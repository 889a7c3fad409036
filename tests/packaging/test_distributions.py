"""Wheel and sdist: what is in them, and the wheel's whole life in an environment that has never seen the checkout."""

from __future__ import annotations

import email
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging import clean
from tests.support import make_table

pytestmark = pytest.mark.slow
_WHEEL, _SDIST = f"hybridmu-{clean.VERSION}-py3-none-any.whl", f"hybridmu-{clean.VERSION}.tar.gz"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return clean.sources(tmp_path_factory.mktemp("source") / "project")


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """A folder with an sdist, and the wheel that was made of it."""
    out = tmp_path_factory.mktemp("dist")
    assert [path.name for path in clean.build(source, out)] == [_WHEEL, _SDIST]
    return out


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(built, source):
    packed = contents(built / _WHEEL)
    assert {name.partition("/")[0] for name in packed} == {"hybridmu", f"hybridmu-{clean.VERSION}.dist-info"}
    ours = {name: data for name, data in packed.items() if name.startswith("hybridmu/")}
    files = [path for path in (source / "hybridmu").rglob("*") if path.is_file()]
    assert ours == {path.relative_to(source).as_posix(): path.read_bytes() for path in files}
    assert any(name.endswith("versions/0001_first.py") for name in ours)
    assert {name.rpartition(".")[2] for name in ours} >= {"css", "j2", "mako", "typed"}
    (top,) = [data for name, data in packed.items() if name.endswith("top_level.txt")]
    assert top.split() == [b"hybridmu"]


def test_the_sdist_makes_the_same_wheel_as_the_checkout(built, source, tmp_path):
    (direct,) = clean.build(source, tmp_path / "direct", "--wheel")
    assert direct.name == _WHEEL
    assert contents(direct) == contents(built / _WHEEL)


def test_the_sdist_has_what_it_takes_to_work_on_it(built):
    with tarfile.open(built / _SDIST) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "README.md", "Makefile", "tests/conftest.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "dist")) or name.endswith(".key")]


def test_its_whole_life_away_from_the_checkout(built, tmp_path):
    told = email.message_from_bytes(contents(built / _WHEEL)[f"hybridmu-{clean.VERSION}.dist-info/METADATA"])
    needs = [each for each in told.get_all("Requires-Dist", []) if "extra ==" not in each]
    binaries = clean.environment(tmp_path / "env", needs)
    clean.install(binaries, built / _WHEEL)
    away = tmp_path / "away"
    away.mkdir()
    make_table(away / "rows.parquet", 240)

    def called(*words: str) -> str:
        return clean.run(binaries / "hybridmu", *words, cwd=away).stdout

    def python(code: str) -> str:
        return clean.run(binaries / "python", "-c", code, cwd=away).stdout.strip()

    assert Path(python("import hybridmu; print(hybridmu.__file__)")).is_relative_to(tmp_path / "env")
    # Nothing of an extra is there, nor of those who work on it.
    assert (
        python("import importlib.util as u; print([m for m in ('pytest', 'fastapi', 'sklearn') if u.find_spec(m)])")
        == "[]"
    )
    assert called("--version").strip() == clean.VERSION
    called("init", "rows.parquet")
    assert json.loads(called("train", "--local", "--json"))["version"] == 1
    assert json.loads(called("forget", "--id", "17", "--wait", "--local", "--json"))["state"] == "SERVED"
    called("run", "--until-idle", "--local")
    assert json.loads(called("requests", "list", "--json"))[0]["state"] == "PURGED"
    (away / "1.json").write_text(called("certificate", "show", "1", "-c", "hybridmu.yaml"))
    (key,) = away.rglob("signing-0001.pub.pem")
    assert "What it does not show" in called(
        "certificate", "verify", "1.json", "--public-key", str(key), "--html", "1.html"
    )
    called("certificate", "show", "1", "-c", "hybridmu.yaml", "--html", "2.html")
    assert (away / "2.html").read_text() == (away / "1.html").read_text()
    assert json.loads(called("verify", "--json"))["exact_claims_hold"] is True
