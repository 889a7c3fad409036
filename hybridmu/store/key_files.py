"""Key files: numbered, made once and never replaced, readable by their owner alone; and what is in them.

Nothing here decides which key is used; that is `keyring.py`.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybridmu.errors import ConfigError
from hybridmu.faults import reach
from hybridmu.store.storage.durable_files import temporary_name
from hybridmu.store.storage.storage_errors import explained
from hybridmu.verifier.public_keys import public_key

_KEY_FILE = re.compile(r"signing-\d{4,}\.(pem|retired|pub\.pem)|guard-\d{4,}\.(hex|id)")
HEX = re.compile("[0-9a-fA-F]{64}")


def is_key_file(name: str) -> bool:
    """Return whether a file has a name that a key, its public part or its id has in a key folder."""
    return _KEY_FILE.fullmatch(name) is not None


def numbers_in(folder: Path, pattern: str) -> list[int]:
    """Return the numbers of the files of one kind in a folder, in order.

    Args:
        folder: It may be missing.
        pattern: Their name, with `{:04d}` for the number.
    """
    if not folder.is_dir():
        return []
    wanted = re.compile(re.escape(pattern).replace(r"\{:04d\}", r"(\d{4,})"))
    return sorted(int(match[1]) for path in folder.iterdir() if (match := wanted.fullmatch(path.name)))


def create_new(path: Path, data: bytes) -> bool:
    """Return whether a new file was published, whole; not when the name was taken, perhaps at this moment."""
    with explained(str(path.parent), "write", path.name):
        return not path.exists() and _link(path, data)


def _link(path: Path, data: bytes) -> bool:
    temporary = path.with_name(temporary_name(""))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reach("key.link")
        os.link(temporary, path)  # unlike a rename, it never replaces
        reach("key.linked")
    except FileExistsError:
        return False
    except FileNotFoundError:  # somebody took it for one that a crash had left
        return _link(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return True


def read_secret(path: Path) -> bytes:
    """Return a secret file's bytes.

    Raises:
        ConfigError: Others than its owner may read it, its owner may not, or it is no file.
    """
    with _told(path):
        refuse_open(path, "600")
        return path.read_bytes()


def read_open(path: Path) -> bytes:
    """Return the bytes of a file that holds no secret: a public key, or the id of a guard key.

    Raises:
        ConfigError: It can't be read, or is no file.
    """
    with _told(path):
        return path.read_bytes()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which key file can't be read; one that is missing is left to the caller."""  # noqa: DOC501
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except PermissionError:
        raise ConfigError("a key file can't be read", got=str(path), remedy="run as the user that owns it") from None
    except OSError as error:
        raise ConfigError(
            "a key file can't be read",
            expected="a file",
            got=f"{path}: {'a folder' if path.is_dir() else error.strerror}",
            remedy="put back the file from the backup of the key folder (docs/keys.md)",
        ) from None


def refuse_open(path: Path, mode: str) -> None:
    """Refuse what others than its owner can get at.

    Args:
        path: A key file, or their folder.
        mode: What it should have.

    Raises:
        ConfigError: They can.
    """
    found = path.stat().st_mode & 0o777
    if found & 0o077:
        raise ConfigError(
            "others than its owner can get at a key",
            expected=f"mode {mode}",
            got=f"{path} with mode {found:03o}",
            remedy=f"chmod {mode} {path}; if anybody may have read it, `hybridmu keys rotate` as well",
        )


def parse_private(data: bytes, where: str) -> Ed25519PrivateKey:
    """Return a private key: PEM, or 64 hex digits.

    Args:
        data: What was read.
        where: From where, for the message.

    Raises:
        ConfigError: It is none.
    """
    text = data.decode(errors="replace").strip()
    if HEX.fullmatch(text):
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "the signing key is not one", expected="an Ed25519 private key, PEM without password", got=where
        )
    return key


def parse_public(data: bytes) -> bytes:
    """Return the 32 bytes of a public key in PEM.

    Raises:
        ConfigError: It is none.
    """
    try:
        return public_key(data)
    except ValueError as error:
        raise ConfigError(str(error), expected="an Ed25519 public key, PEM") from None


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of a key's public part."""
    return key.public_key().public_bytes_raw()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as its file holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a key's public part as its file holds it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def guard_id(key: bytes) -> str:
    """Return the id of a guard key, which does not tell the key."""
    return hmac.digest(key, b"hybridmu guard key id", "sha256")[:8].hex()


def not_of_its_number(path: Path, other: Path) -> ConfigError:
    """Return the refusal of a key file that does not fit the file beside it."""
    return ConfigError(
        "a key file is damaged, or the key of another number",
        expected=f"the key that {other.name} was made of",
        got=str(path),
        remedy="restore both files from the backup of the key folder (docs/keys.md)",
    )


def parse_guard(data: bytes, where: str) -> bytes:
    """Return the 32 bytes of a guard key in hex digits.

    Args:
        data: What was read.
        where: From where, for the message.

    Raises:
        ConfigError: It is none.
    """
    text = data.decode(errors="replace").strip()
    if not HEX.fullmatch(text):
        raise ConfigError("the guard key is not one", expected="64 hex digits", got=where)
    return bytes.fromhex(text)
