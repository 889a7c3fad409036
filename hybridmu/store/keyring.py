"""The two keys of a system, apart from each other, from storage, and from the partition key.

`signing` (Ed25519) signs certificates; `guard` (32 random bytes) makes the HMACs of forgotten ids. Each is a numbered
file of mode 600 in a folder of mode 700, made on first use, or comes from where `keys:` in the configuration says. A
rotation makes the next number: an old signing key leaves its public part, an old guard key stays, since no HMAC can
be made again without the raw id. Nothing is cached: a rotation by another process holds from the next call on.

Beside each lies what tells it from another one without telling it: a public key, or the id of a guard key. So a number
stays taken when its key is lost, and a file that is not the key of its number is refused.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.core.kernel.partition import canonical
from hybridmu.core.proof.certificate import key_id
from hybridmu.errors import ConfigError, StateError
from hybridmu.faults import reach
from hybridmu.store.storage.durable_files import is_temporary, make_folder, temporary_name
from hybridmu.store.storage.storage_errors import explained
from hybridmu.types import KeyKind

KeyName = Literal["signing", "guard"]
_PRIVATE, _RETIRED, _PUBLIC = "signing-{:04d}.pem", "signing-{:04d}.retired", "signing-{:04d}.pub.pem"
_GUARD, _GUARD_ID = "guard-{:04d}.hex", "guard-{:04d}.id"
_HEX = re.compile("[0-9a-fA-F]{64}")


class Keyring:
    """The keys that this process may use.

    Args:
        settings: Names the folder, or other sources of the keys.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def signing_key(self, used: bool = False) -> Ed25519PrivateKey:
        """Return the key that signs from now on; it is made on first use.

        Args:
            used: A certificate is signed already, so that this can't be the first use.

        Raises:
            ConfigError: It can't be read, or others than its owner can read it.
            StateError: It was there and is lost.
        """
        if self.settings.keys.signing:
            return _private(self._external("signing"), self.settings.keys.signing)
        folder = self._folder()
        while True:
            present = _numbers(folder, _PRIVATE)
            newest = max([*present, *_numbers(folder, _PUBLIC)], default=0)
            if newest not in present and (newest or used):
                raise StateError(
                    "the signing key is lost",
                    expected=str(folder / _PRIVATE.format(newest)) if newest else f"key files in {folder}",
                    remedy="restore the key folder from its backup (docs/keys.md), or start a new key with "
                    "`hybridmu keys rotate signing`, and tell whoever checks certificates",
                )
            if not newest:
                self._new_signing(folder, 1)
                continue
            for number in {*present, *_numbers(folder, _RETIRED)} - {newest}:
                self._retire(folder, number)  # of a rotation just made, or interrupted once
            with suppress(FileNotFoundError):  # rotated since we looked
                return self._stored(folder, newest)

    def public_keys(self) -> dict[str, bytes]:
        """Return every public key that a certificate of this system may be signed with: id → 32 bytes, newest last.

        Raises:
            ConfigError: A key can't be read.
        """
        found: dict[str, bytes] = {}
        if not self.settings.keys.signing or self._has_folder():
            folder = self._folder(create=False)
            for number in sorted({*_numbers(folder, _PUBLIC), *_numbers(folder, _PRIVATE)}):
                try:
                    key = _raw(self._stored(folder, number))
                except FileNotFoundError:  # retired; its public part was there before it went
                    key = _public((folder / _PUBLIC.format(number)).read_bytes())
                found[key_id(key)] = key
        if self.settings.keys.signing:
            key = _raw(self.signing_key())
            found.pop(key_id(key), None)
            found[key_id(key)] = key
        return found

    def guard_keys(self) -> tuple[str, ...]:
        """Return the ids of the guard keys that are there, newest last; none before first use.

        An HMAC whose key id is not among them can't be compared with anything any more.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
        """
        return tuple(self._guards())

    def mac(self, kind: KeyKind, value: object) -> tuple[str, bytes]:
        """Return (id of the newest guard key, HMAC of an id or group by it); the key is made on first use.

        Args:
            kind: Ids and groups are kept apart.
            value: The raw id or group, in its column's own type: 7 is not "7".

        Returns:
            16 hex digits, 32 bytes.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
            DataError: The value is neither integer nor string.
        """
        return self.stamp()(kind, value)

    def stamp(self, used: Collection[str] = ()) -> Callable[[KeyKind, object], tuple[str, bytes]]:
        """Return `mac` for the many values of one request, by the guard key that is the newest now.

        Args:
            used: Ids of the guard keys that made entries in the ledger: with any, this can't be the first use.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
            StateError: The newest key was there and is lost.
        """
        if not self.settings.keys.guard:
            folder = self._folder()
            present = _numbers(folder, _GUARD)
            newest = max([*present, *_numbers(folder, _GUARD_ID)], default=0)
            if newest not in present and (newest or used):
                raise StateError(
                    "the guard key is lost",
                    expected=str(folder / _GUARD.format(newest)) if newest else f"key(s) {', '.join(sorted(used))}",
                    got=f"nothing of that name in {folder}",
                    remedy="restore the key folder from its backup (docs/keys.md); nothing was changed. If it is gone "
                    "for good, start a new key with `hybridmu keys rotate guard`: what was forgotten under the old one "
                    "can't be recognised any more",
                )
            if not newest:
                self._new_guard(folder, 1)
            for number in present:
                self._name_guard(folder, number)  # made by an older release, or a crash came between
        name, key = [*self._guards().items()][-1]
        return lambda kind, value: (name, _hmac(key, kind, value))

    def macs(self, kind: KeyKind, values: Sequence[object]) -> dict[str, list[bytes]]:
        """Return the HMACs of many values by every guard key that is there: key id → one per value, newest key last.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
            DataError: A value is neither integer nor string.
        """
        return {name: [_hmac(key, kind, value) for value in values] for name, key in self._guards().items()}

    def seals(self, what: str, data: bytes) -> dict[str, bytes]:
        """Return the HMACs of some bytes by every guard key that is there.

        Args:
            what: What the bytes are: HMACs of different things are kept apart.
            data: The bytes.

        Returns:
            Key id → 32 bytes, newest key last.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
        """
        text = b"hybridmu %s\0%s" % (what.encode(), data)
        return {name: hmac.digest(key, text, "sha256") for name, key in self._guards().items()}

    def rotate(self, which: KeyName, used: int = 0) -> str:
        """Start a new key. The old signing key's private part is destroyed; old guard keys stay for checking.

        Args:
            which: `signing` or `guard`.
            used: How many such keys are known to have been used: their numbers stay taken, also of a lost folder.

        Returns:
            The new key's id.

        Raises:
            ConfigError: The key comes from elsewhere and is rotated there.
            StateError: Another process rotated it at the same moment.
        """
        if source := getattr(self.settings.keys, which):
            raise ConfigError(
                f"the {which} key is not kept by this system",
                got=f"keys.{which}: {source}",
                remedy="append the new key as the last line there"
                if which == "guard"
                else "keep the old public key for whoever checks old certificates, and put the new key there",
            )
        folder = self._folder()
        if which == "guard":
            number = max([*_numbers(folder, _GUARD), *_numbers(folder, _GUARD_ID), used], default=0) + 1
            made = self._new_guard(folder, number)
        else:
            number = max([*_numbers(folder, _PRIVATE), *_numbers(folder, _PUBLIC), used]) + 1
            made = self._new_signing(folder, number)
        if not made:
            raise StateError(f"another process rotated the {which} key just now", remedy="look at `hybridmu keys show`")
        return self.guard_keys()[-1] if which == "guard" else key_id(_raw(self.signing_key()))

    def check(self) -> None:
        """Check that the keys from elsewhere can be read, and that the others have a folder to be made in.

        Nothing is made but that folder. What fails here would fail after rows were revoked, or at their certificate.

        Raises:
            ConfigError: A key or the folder can't be used.
        """  # noqa: DOC501 - a function makes one of them
        keys = self.settings.keys
        if keys.signing:
            _private(self._external("signing"), keys.signing)
        self._guards()
        for source, pattern in ((keys.signing, _PRIVATE), (keys.guard, _GUARD)):
            if not source and not _numbers(folder := self._folder(), pattern) and not os.access(folder, os.W_OK):
                raise _no_folder(folder, "this user may not write there")

    def drop_unfinished(self) -> None:
        """Remove half-made key files that crashes left."""
        if self._has_folder():
            for path in self.settings.keys_folder.glob(".*.tmp"):
                if is_temporary(path.name):
                    path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ files

    def _folder(self, create: bool = True) -> Path:
        folder = self.settings.keys_folder
        try:
            if create:
                make_folder(folder)
            there = folder.is_dir()
        except OSError as error:
            raise _no_folder(folder, error.strerror or str(error)) from None
        if there:
            _refuse_open(folder, "700")
        return folder

    def _has_folder(self) -> bool:
        try:
            return self.settings.keys_folder.is_dir()
        except ConfigError:
            return False

    def _new_signing(self, folder: Path, number: int) -> bool:
        key = Ed25519PrivateKey.generate()
        made = _create(folder / _PRIVATE.format(number), _pem(key))
        if made:
            _create(folder / _PUBLIC.format(number), _public_pem(key))
        return made

    def _new_guard(self, folder: Path, number: int) -> bool:
        made = _create(folder / _GUARD.format(number), secrets.token_hex(32).encode())
        self._name_guard(folder, number)
        return made

    def _name_guard(self, folder: Path, number: int) -> None:
        if number not in _numbers(folder, _GUARD_ID):
            path = folder / _GUARD.format(number)
            _create(folder / _GUARD_ID.format(number), _guard_id(_guard(_read(path), str(path))).encode())

    def _stored(self, folder: Path, number: int) -> Ed25519PrivateKey:
        path, public = folder / _PRIVATE.format(number), folder / _PUBLIC.format(number)
        key = _private(_read(path), str(path))
        if public.exists() and _public(public.read_bytes()) != _raw(key):
            raise _not_of_its_number(path, public)
        return key

    def _retire(self, folder: Path, number: int) -> None:
        """Destroy a private key, as far as a file system lets one, once its public part is there."""
        gone = folder / _RETIRED.format(number)  # never half a key under the name that is read
        with suppress(FileNotFoundError):
            _create(folder / _PUBLIC.format(number), _public_pem(self._stored(folder, number)))
            (folder / _PRIVATE.format(number)).replace(gone)
        with suppress(FileNotFoundError):
            with gone.open("r+b") as file:
                file.write(bytes(gone.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            gone.unlink()

    def _guards(self) -> dict[str, bytes]:
        """Return guard key id → key, newest last."""  # noqa: DOC501 - a function makes the ConfigError
        source = self.settings.keys.guard
        texts: list[tuple[bytes, str]] = []
        if not source or self._has_folder():  # keys from before they came from elsewhere stay known
            folder = self._folder(create=False)
            for number in _numbers(folder, _GUARD):
                path, named = folder / _GUARD.format(number), folder / _GUARD_ID.format(number)
                text = _read(path)
                if named.exists() and named.read_text(errors="replace").strip() != _guard_id(_guard(text, str(path))):
                    raise _not_of_its_number(path, named)
                texts.append((text, str(path)))
        if source:
            texts += [(line, source) for line in self._external("guard").split()]
        found: dict[str, bytes] = {}
        for text, where in texts:
            key = _guard(text, where)
            name = _guard_id(key)
            found.pop(name, None)
            found[name] = key
        return found

    def _external(self, which: KeyName) -> bytes:
        source = str(getattr(self.settings.keys, which))
        kind, _, name = source.partition(":")
        found = config.secret(name) if kind == "env" else None
        if kind == "file":
            with suppress(FileNotFoundError, NotADirectoryError):
                found = _read(Path(name))
        if not found or not found.strip():
            raise ConfigError(
                f"keys.{which} can't be read, or is empty",
                expected="a set environment variable" if kind == "env" else "an existing file that this user may read",
                got=source,
                remedy="provide it, or leave it out: then the key is a file in keys.folder",
            )
        return found


def load_public_keys(data: bytes) -> list[bytes]:
    """Return the Ed25519 public keys in a file for auditors: PEM blocks, or 64 hex digits a line; 32 bytes each.

    Raises:
        ConfigError: There is none, or something else.
    """
    blocks = re.findall(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", data, flags=re.DOTALL)
    if blocks:
        return [_public(block) for block in blocks]
    lines = data.decode(errors="replace").split()
    if not lines or not all(_HEX.fullmatch(line) for line in lines):
        raise ConfigError("there is no public key", expected="an Ed25519 key as PEM, or 64 hex digits")
    return [bytes.fromhex(line) for line in lines]


def _hmac(key: bytes, kind: KeyKind, value: object) -> bytes:
    return hmac.digest(key, b"hybridmu guard %s\0%s" % (kind.encode(), canonical(value)), "sha256")


def _numbers(folder: Path, pattern: str) -> list[int]:
    if not folder.is_dir():
        return []
    wanted = re.compile(re.escape(pattern).replace(r"\{:04d\}", r"(\d{4,})"))
    return sorted(int(match[1]) for path in folder.iterdir() if (match := wanted.fullmatch(path.name)))


def _create(path: Path, data: bytes) -> bool:
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


def _read(path: Path) -> bytes:
    """Return a secret file's bytes.

    Raises:
        ConfigError: Others than its owner may read it, or its owner may not.
    """
    try:
        _refuse_open(path, "600")
        return path.read_bytes()
    except PermissionError:
        raise ConfigError("a key file can't be read", got=str(path), remedy="run as the user that owns it") from None


def _refuse_open(path: Path, mode: str) -> None:
    found = path.stat().st_mode & 0o777
    if found & 0o077:
        raise ConfigError(
            "others than its owner can get at a key",
            expected=f"mode {mode}",
            got=f"{path} with mode {found:03o}",
            remedy=f"chmod {mode} {path}; if anybody may have read it, `hybridmu keys rotate` as well",
        )


def _private(data: bytes, where: str) -> Ed25519PrivateKey:
    text = data.decode(errors="replace").strip()
    if _HEX.fullmatch(text):
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


def _public(data: bytes) -> bytes:
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("a public key is not one", expected="an Ed25519 public key, PEM")
    return key.public_bytes_raw()


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _guard_id(key: bytes) -> str:
    return hmac.digest(key, b"hybridmu guard key id", "sha256")[:8].hex()


def _not_of_its_number(path: Path, other: Path) -> ConfigError:
    return ConfigError(
        "a key file is damaged, or the key of another number",
        expected=f"the key that {other.name} was made of",
        got=str(path),
        remedy="restore both files from the backup of the key folder (docs/keys.md)",
    )


def _no_folder(folder: Path, got: str) -> ConfigError:
    return ConfigError(
        "the folder of the keys can't be made or used",
        expected="a folder that this user may make and write to",
        got=f"{folder}: {got}",
        remedy="make that possible; where no keys were made yet, keys.folder may name another place apart from storage",
    )


def _guard(data: bytes, where: str) -> bytes:
    text = data.decode(errors="replace").strip()
    if not _HEX.fullmatch(text):
        raise ConfigError("the guard key is not one", expected="64 hex digits", got=where)
    return bytes.fromhex(text)
