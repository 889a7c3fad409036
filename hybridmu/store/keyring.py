"""The two keys of a system, apart from each other, from storage, and from the partition key.

`signing` (Ed25519) signs certificates; `guard` (32 random bytes) makes the HMACs of forgotten ids. Each is a numbered
file of mode 600 in a folder of mode 700, made on first use, or comes from where `keys:` in the configuration says. A
rotation makes the next number: an old signing key leaves its public part, an old guard key stays, since no HMAC can
be made again without the raw id. Nothing is cached: a rotation by another process holds from the next call on.

Beside each lies what tells it from another one without telling it: a public key, or the id of a guard key. So a number
stays taken when its key is lost, and a file that is not the key of its number is refused. When both are lost, it is the
system's records that tell of it: nothing is made, and no key of somebody else taken, in place of one that was used.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.core.kernel.partition import canonical
from hybridmu.core.proof.exclusions import exclusion_digest, exclusion_key
from hybridmu.errors import ConfigError, StateError
from hybridmu.store.key_files import (
    create_new,
    guard_id,
    not_of_its_number,
    numbers_in,
    parse_guard,
    parse_private,
    parse_public,
    private_pem,
    public_bytes,
    public_pem,
    read_open,
    read_secret,
    refuse_open,
)
from hybridmu.store.storage.durable_files import is_temporary, make_folder
from hybridmu.types import KeyKind
from hybridmu.verifier.plain_data import key_id
from hybridmu.verifier.public_keys import public_keys

KeyName = Literal["signing", "guard"]
_PRIVATE, _RETIRED, _PUBLIC = "signing-{:04d}.pem", "signing-{:04d}.retired", "signing-{:04d}.pub.pem"
_GUARD, _GUARD_ID = "guard-{:04d}.hex", "guard-{:04d}.id"


@dataclass(frozen=True, slots=True)
class Uses:
    """What a system knows of the keys of one kind that it used, wherever they are kept.

    Attributes:
        key_ids: Of those whose ids it knows.
        given_up: Those among them whose loss was accepted.
        before: One was used, whether or not it is known which.
    """

    key_ids: frozenset[str] = frozenset()
    given_up: frozenset[str] = frozenset()
    before: bool = False


NO_USE = Uses()


class Keyring:
    """The keys that this process may use.

    Args:
        settings: Names the folder, or other sources of the keys.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def signing_key(self, last: str | None = None, signers: Callable[[], Collection[str]] = tuple) -> Ed25519PrivateKey:
        """Return the key that signs from now on; it is made on first use.

        Args:
            last: Id of the key that signed the last certificate: with one, this can't be the first use.
            signers: Returns the ids of all keys that signed one; asked where the key is another than the last.

        Raises:
            ConfigError: It can't be read, or others than its owner can read it.
            StateError: It was there and is lost, or another key is in its place.
        """  # noqa: DOC501 - a function makes the StateError
        if self.settings.keys.signing:
            return parse_private(self._external("signing"), self.settings.keys.signing)
        folder = self._folder()
        while True:
            present = numbers_in(folder, _PRIVATE)
            newest = max([*present, *numbers_in(folder, _PUBLIC)], default=0)
            if newest not in present and (newest or last):
                raise _lost_signing(str(folder / _PRIVATE.format(newest)) if newest else f"key files in {folder}")
            if not newest:
                self._new_signing(folder, 1)
                continue
            for number in {*present, *numbers_in(folder, _RETIRED)} - {newest}:
                self._retire(folder, number)  # of a rotation just made, or interrupted once
            with suppress(FileNotFoundError):  # rotated since we looked
                key = self._stored(folder, newest)
                name = key_id(public_bytes(key))
                if last and name != last and self._takes_place_of(signers(), newest, name):
                    raise _lost_signing(f"key {last}, or one that came after it", str(folder / _PRIVATE.format(newest)))
                return key

    def public_keys(self) -> dict[str, bytes]:
        """Return every public key that a certificate of this system may be signed with: id → 32 bytes, newest last.

        Raises:
            ConfigError: A key can't be read.
        """
        found: dict[str, bytes] = {}
        if not self.settings.keys.signing or self._has_folder():
            folder = self._folder(create=False)
            for number in sorted({*numbers_in(folder, _PUBLIC), *numbers_in(folder, _PRIVATE)}):
                try:
                    key = public_bytes(self._stored(folder, number))
                except FileNotFoundError:  # retired; its public part was there before it went
                    key = parse_public(read_open(folder / _PUBLIC.format(number)))
                found[key_id(key)] = key
        if self.settings.keys.signing:
            key = public_bytes(self.signing_key())
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

    def stamp(self, uses: Uses = NO_USE) -> Callable[[KeyKind, object], tuple[str, bytes]]:
        """Return `mac` for the many values of one request, by the guard key that is the newest now.

        Args:
            uses: What is known of earlier ones: with any, this can't be the first.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
            StateError: The newest key was there and is lost, or another key is in its place.
        """  # noqa: DOC501 - a function makes the StateError
        source = self.settings.keys.guard
        number = 0 if source else self._newest_guard(uses)
        guards = self._guards()
        name, key = [*guards.items()][-1]
        missing = uses.key_ids - uses.given_up - guards.keys()
        # The lines of a source have no numbers: nothing tells a new key there from one in the place of another.
        foreign = name not in uses.key_ids if source else _displaces(number, name, uses.key_ids)
        if missing and foreign:
            found = f"key {name} as the newest in {source or self.settings.keys_folder}"
            raise _lost_guard(f"key(s) {', '.join(sorted(missing))}", found, source)
        if not source:
            for each in numbers_in(self._folder(), _GUARD):
                self._name_guard(self._folder(), each)  # made by an older release, or a crash came between
        return lambda kind, value: (name, _hmac(key, kind, value))

    def _newest_guard(self, uses: Uses) -> int:
        """Return the number of the newest guard key in the folder; the first one is made if none was used before.

        Raises:
            StateError: It is lost.
        """  # noqa: DOC501 - a function makes the StateError
        folder = self._folder()
        present = numbers_in(folder, _GUARD)
        newest = max([*present, *numbers_in(folder, _GUARD_ID)], default=0)
        if newest not in present and (newest or uses.before or uses.key_ids):
            known = f"key(s) {', '.join(sorted(uses.key_ids))}" if uses.key_ids else "the key that was used before"
            wanted = str(folder / _GUARD.format(newest)) if newest else known
            raise _lost_guard(wanted, f"nothing of that name in {folder}")
        if not newest:
            self._new_guard(folder, 1)
        return newest or 1

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

    def exclusion_keys(self) -> dict[str, bytes]:
        """Return guard key id → the key of exclusion manifests that follows from it, 32 bytes, newest last.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
        """
        return {name: exclusion_key(key) for name, key in self._guards().items()}

    def exclusions(self, kind: KeyKind, values: Sequence[object]) -> dict[bytes, bytes]:
        """Return HMAC of the guard → digest for exclusion manifests, of many values by every guard key that is there.

        Args:
            kind: Ids and groups are kept apart.
            values: Raw, in their column's own type.

        Returns:
            32 bytes → 32 bytes.

        Raises:
            ConfigError: A key can't be read, or others than its owner can read it.
            DataError: A value is neither integer nor string.
        """
        found: dict[bytes, bytes] = {}
        for key in self._guards().values():
            other = exclusion_key(key)
            found |= {_hmac(key, kind, value): exclusion_digest(other, kind, value) for value in values}
        return found

    def rotate(self, which: KeyName, used: int) -> str:
        """Start a new key. The old signing key's private part is destroyed; old guard keys stay for checking.

        Args:
            which: `signing` or `guard`.
            used: How many such keys are known to have been used: their numbers stay taken, also of a lost folder. The
                folder can't tell; see `key_uses`.

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
                else "keep the old public key for those who check old certificates, and put the new key there",
            )
        folder = self._folder()
        if which == "guard":
            number = max([*numbers_in(folder, _GUARD), *numbers_in(folder, _GUARD_ID), used], default=0) + 1
            made = self._new_guard(folder, number)
        else:
            number = max([*numbers_in(folder, _PRIVATE), *numbers_in(folder, _PUBLIC), used]) + 1
            made = self._new_signing(folder, number)
        if not made:
            raise StateError(f"another process rotated the {which} key just now", remedy="look at `hybridmu keys show`")
        return self.guard_keys()[-1] if which == "guard" else key_id(public_bytes(self.signing_key()))

    def check(self) -> None:
        """Check that the keys from elsewhere can be read, and that the others have a folder to be made in.

        Nothing is made but that folder. What fails here would fail after rows were revoked, or at their certificate.

        Raises:
            ConfigError: A key or the folder can't be used.
        """  # noqa: DOC501 - a function makes one of them
        keys = self.settings.keys
        if keys.signing:
            parse_private(self._external("signing"), keys.signing)
        self._guards()
        for source, pattern in ((keys.signing, _PRIVATE), (keys.guard, _GUARD)):
            if not source and not numbers_in(folder := self._folder(), pattern) and not os.access(folder, os.W_OK):
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
            refuse_open(folder, "700")
        return folder

    def _has_folder(self) -> bool:
        try:
            return self.settings.keys_folder.is_dir()
        except ConfigError:
            return False

    def _new_signing(self, folder: Path, number: int) -> bool:
        key = Ed25519PrivateKey.generate()
        made = create_new(folder / _PRIVATE.format(number), private_pem(key))
        if made:
            create_new(folder / _PUBLIC.format(number), public_pem(key))
        return made

    def _new_guard(self, folder: Path, number: int) -> bool:
        made = create_new(folder / _GUARD.format(number), secrets.token_hex(32).encode())
        self._name_guard(folder, number)
        return made

    def _name_guard(self, folder: Path, number: int) -> None:
        if number not in numbers_in(folder, _GUARD_ID):
            path = folder / _GUARD.format(number)
            create_new(folder / _GUARD_ID.format(number), guard_id(parse_guard(read_secret(path), str(path))).encode())

    def _stored(self, folder: Path, number: int) -> Ed25519PrivateKey:
        path, public = folder / _PRIVATE.format(number), folder / _PUBLIC.format(number)
        key = parse_private(read_secret(path), str(path))
        if public.exists() and parse_public(read_open(public)) != public_bytes(key):
            raise not_of_its_number(path, public)
        return key

    def _takes_place_of(self, signers: Collection[str], number: int, name: str) -> bool:
        return not set(signers) <= self.public_keys().keys() and _displaces(number, name, signers)

    def _retire(self, folder: Path, number: int) -> None:
        """Destroy a private key, as far as a file system lets one, once its public part is there."""
        gone = folder / _RETIRED.format(number)  # never half a key under the name that is read
        with suppress(FileNotFoundError):
            create_new(folder / _PUBLIC.format(number), public_pem(self._stored(folder, number)))
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
            for number in numbers_in(folder, _GUARD):
                path, named = folder / _GUARD.format(number), folder / _GUARD_ID.format(number)
                text = read_secret(path)
                known = guard_id(parse_guard(text, str(path))).encode()
                if named.exists() and read_open(named).strip() != known:
                    raise not_of_its_number(path, named)
                texts.append((text, str(path)))
        if source:
            texts += [(line, source) for line in self._external("guard").split()]
        found: dict[str, bytes] = {}
        for text, where in texts:
            key = parse_guard(text, where)
            name = guard_id(key)
            found.pop(name, None)
            found[name] = key
        return found

    def _external(self, which: KeyName) -> bytes:
        source = str(getattr(self.settings.keys, which))
        kind, _, name = source.partition(":")
        found = config.secret(name) if kind == "env" else None
        if kind == "file":
            with suppress(FileNotFoundError, NotADirectoryError):
                found = read_secret(Path(name))
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
    try:
        return public_keys(data)
    except ValueError as error:
        raise ConfigError(str(error), expected="an Ed25519 key as PEM, or 64 hex digits") from None


def _displaces(number: int, name: str, used: Collection[str]) -> bool:
    """Return whether the newest numbered key is in the place of one that was used, where one of these is missing.

    A rotation gives numbers beyond all keys that were used. So the newest number is never below their count, itself
    included, unless a foreign key has the number of a lost one, or the newest ones are lost.
    """
    return number < len({*used, name})


def _lost_guard(expected: str, got: str, source: str | None = None) -> StateError:
    new = "give it up with `hybridmu guard accept-loss KEY-ID --reason TEXT`, then use the new one"
    return StateError(
        "the guard key is lost",
        expected=expected,
        got=got,
        remedy=f"restore {'it there, before any newer line' if source else 'the key folder from its backup'} "
        "(docs/keys.md); nothing was changed. If it is gone for good, "
        + (new if source else "start a new key with `hybridmu keys rotate guard`")
        + ": what was forgotten under the old one can't be recognised any more",
    )


def _lost_signing(expected: str, got: str = "") -> StateError:
    return StateError(
        "the signing key is lost",
        expected=expected,
        got=got,
        remedy="restore the key folder from its backup (docs/keys.md), or start a new key with "
        "`hybridmu keys rotate signing`, and tell those who check certificates",
    )


def _hmac(key: bytes, kind: KeyKind, value: object) -> bytes:
    return hmac.digest(key, b"hybridmu guard %s\0%s" % (kind.encode(), canonical(value)), "sha256")


def _no_folder(folder: Path, got: str) -> ConfigError:
    return ConfigError(
        "the folder of the keys can't be made or used",
        expected="a folder that this user may make and write to",
        got=f"{folder}: {got}",
        remedy="make that possible; where no keys were made yet, keys.folder may name another place apart from storage",
    )
