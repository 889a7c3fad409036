"""Package archives: fetched without running anything of them, and only then compared and read."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybridmu.datasets.archives import fetch, tar_member, zip_member
from hybridmu.errors import DataError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index on loopback, and nothing else that pip would ask."""
    folder = tmp_path / "simple"
    (folder / "evil-data").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield folder / "evil-data"
    server.shutdown()
    server.server_close()


def source_distribution(ran: Path, text: str = "1,2\n") -> bytes:
    """An sdist that writes a file when anybody builds it, or asks it for its metadata."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, data in {
            "setup.py": f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil-data')\n",
            "PKG-INFO": "Metadata-Version: 1.1\nName: evil-data\nVersion: 1.0\n",
            "data/rows.csv": text,
        }.items():
            member = tarfile.TarInfo(f"evil-data-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data.encode()))
    return sink.getvalue()


def publish(index: Path, name: str, data: bytes) -> str:
    (index / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    page = index / "index.html"
    before = page.read_text() if page.exists() else ""
    page.write_text(f'{before}<a href="{name}#sha256={digest}">{name}</a>\n')
    return digest


def test_a_source_distribution_is_fetched_and_read_and_never_run(index, tmp_path):
    data = source_distribution(tmp_path / "ran")
    digest = publish(index, "evil-data-1.0.tar.gz", data)
    publish(index, "evil-data-2.0.tar.gz", source_distribution(tmp_path / "ran", "3,4\n"))
    assert fetch("pip", "evil-data==1.0", digest) == data
    assert tar_member(data, "evil-data-1.0/data/rows.csv") == b"1,2\n"
    assert not (tmp_path / "ran").exists()


def test_another_archive_is_refused_and_never_run(index, tmp_path):
    publish(index, "evil-data-1.0.tar.gz", source_distribution(tmp_path / "ran"))
    with pytest.raises(DataError, match="not the expected archive"):
        fetch("pip", "evil-data==1.0", "0" * 64)
    assert not (tmp_path / "ran").exists()


def test_of_several_archives_the_expected_one_is_taken(index, tmp_path):
    publish(index, "evil-data-1.0.tar.gz", source_distribution(tmp_path / "ran"))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as wheel:
        wheel.writestr("evil_data/rows.csv", "1,2\n")
    digest = publish(index, "evil_data-1.0-py3-none-any.whl", sink.getvalue())
    assert zip_member(fetch("pip", "evil-data==1.0", digest), "evil_data/rows.csv") == b"1,2\n"
    assert not (tmp_path / "ran").exists()


def test_a_version_that_is_not_there_is_an_error_with_a_remedy(index):
    with pytest.raises(DataError, match=r"pip could not fetch evil-data==1\.0"):
        fetch("pip", "evil-data==1.0", "0" * 64)


def test_members_are_plain_files_of_the_archive():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        link = tarfile.TarInfo("data.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for name in ("data.csv", "../data.csv", "none"):
        with pytest.raises(DataError, match="the archive has no"):
            tar_member(sink.getvalue(), name)
    with zipfile.ZipFile(sink := io.BytesIO(), "w"):
        pass
    with pytest.raises(DataError, match="the archive has no"):
        zip_member(sink.getvalue(), "none")
