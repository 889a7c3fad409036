"""Certificates as files of storage, one a number: `certificates/00000001.json`. Only ever appended to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.faults import reach
from hybridmu.store.storage.durable_files import temporary_name
from hybridmu.store.storage.storage import Storage
from hybridmu.verifier.plain_data import canonical, fingerprint, parse

_FOLDER = "certificates"
_FILE = re.compile(rf"{_FOLDER}/(\d{{8,}})\.json")


class Certificates:
    """The chain of one system.

    Args:
        storage: Where it is kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def append(self, document: Mapping[str, Any]) -> int:
        """Add a signed certificate; adding the same one again changes nothing, so a crash may repeat it.

        Object stores can't refuse to replace a file that appears at this very moment: there, the fenced lease of the
        coordinator is what keeps two writers apart.

        Args:
            document: The next one: its number follows the last, and it names that one's fingerprint.

        Returns:
            Its number.

        Raises:
            StateError: The number is taken by another certificate, or it does not follow the last.
        """
        number, data = int(document["number"]), canonical(document)
        taken = self.storage.exists(_name(number))
        if taken and self.storage.read(_name(number)) == data:
            return number
        # Numbers have no gaps, so that the one before is all there is to look at.
        if taken or not self._follows(document):
            last = max(self.numbers(), default=0)
            raise StateError(
                f"certificate {number} does not follow the last one; none was written",
                expected=f"number {last + 1}, with the fingerprint of number {last}" if last else "number 1, the first",
                got=f"number {number}",
                remedy="build it again on top of the last certificate",
            )
        self._create(_name(number), data)
        reach("certificate.appended")
        return number

    def get(self, number: int) -> dict[str, Any]:
        """Return one certificate.

        Raises:
            StateError: There is none of this number.
            CorruptBlobError: The file is damaged.
        """
        from hybridmu.verifier.checks import intact  # late: cryptography, which names and numbers do not need

        try:
            document = parse(self.storage.read(_name(number)))
        except FileNotFoundError:
            raise StateError(
                f"there is no certificate {number}", expected=f"a number up to {max(self.numbers(), default=0)}"
            ) from None
        except ValueError as error:
            document, wrong = None, str(error)
        else:
            wrong = "changed bytes: its signature does not hold" if not intact(document) else ""
            wrong = wrong or ("another number" if document["number"] != number else "")
        if wrong:
            raise CorruptBlobError(
                f"the file of certificate {number} is damaged",
                expected="the certificate as it was signed",
                got=wrong[:200],
                remedy="put back the same file: from a backup of any day, or from a recipient; a certificate "
                "never changes",
            )
        found: dict[str, Any] = document
        return found

    def written(self, number: int, request_id: str) -> dict[str, Any] | None:
        """Return the certificate of a number if it is there and of this request."""
        if not self.storage.exists(_name(number)):
            return None
        document = self.get(number)
        return document if document["request"]["id"] == request_id else None

    def has(self, number: int) -> bool:
        """Return whether the file of a number is there."""
        return number > 0 and self.storage.exists(_name(number))

    def numbers(self) -> list[int]:
        """Return the numbers that are there, in order."""
        found = (_FILE.fullmatch(file.name) for file in self.storage.list(_FOLDER))
        return sorted(int(match[1]) for match in found if match)

    def all(self) -> list[dict[str, Any]]:
        """Return every certificate, the first first."""
        return [self.get(number) for number in self.numbers()]

    def signers(self) -> set[str]:
        """Return the ids of the keys that signed the certificates."""
        return {str(document["signature"]["key_id"]) for document in self.all()}

    def chain(self, system: str | None, *, after: int = 0) -> list[dict[str, Any]]:
        """Return certificates of one system, each of which names the one before.

        Args:
            system: Its name.
            after: Begin behind this number; what comes first has to name the certificate of this number.

        Raises:
            StateError: A number is missing, or one is of another system or chain.
            CorruptBlobError: A file is damaged.
        """
        found: list[dict[str, Any]] = []
        before = self.get(after) if after else None
        there = [number for number in self.numbers() if number > after]
        for expected, number in enumerate(there, start=after + 1):
            if number != expected:
                raise StateError(
                    f"certificate {expected} is missing, and there are later ones",
                    expected=f"every number up to {there[-1]} in {self.storage.url}/{_FOLDER}",
                    got=f"number {number} follows number {expected - 1}",
                    remedy="put it back from a backup or from a recipient; or, if the later files are not of "
                    "this system, move them out of this storage",
                )
            document = self.get(number)
            wrong = ""
            if document["system"] != system:
                wrong = f"it is of system {document['system']}"
            elif document["previous"] != (None if before is None else fingerprint(before)):
                wrong = f"it does not name number {number - 1} as it is here"
            elif before is not None and document["predecessor"] != before["predecessor"]:
                wrong = "it names another predecessor of this model than the one before"
            if wrong:
                raise StateError(
                    f"the file of certificate {number} is not of this chain; nothing was changed",
                    expected=f"the certificate of number {number} of system {system}",
                    got=wrong,
                    remedy="move it out of this storage, and put back this system's own, if it had given this number "
                    "out: from a backup of any day, or from a recipient",
                )
            found.append(document)
            before = document
        return found

    def last(self) -> dict[str, Any] | None:
        """Return the newest certificate, or None before the first."""
        numbers = self.numbers()
        return self.get(numbers[-1]) if numbers else None

    def _follows(self, document: Mapping[str, Any]) -> bool:
        """Return whether the certificate before is there, and is the one that this one names."""
        before = int(document["number"]) - 1
        if before < 1:
            return before == 0 and document["previous"] is None
        if not self.storage.exists(_name(before)):
            return False
        return bool(document["previous"] == fingerprint(self.get(before)))

    def _create(self, name: str, data: bytes) -> None:
        """Publish a file that must be new.

        Raises:
            StateError: Another process was first.
        """
        if self.storage.local is None:
            self.storage.write(name, data)
            return
        temporary = temporary_name(name)
        self.storage.write(temporary, data)
        try:
            reach("certificate.link")
            os.link(self.storage.path(temporary), self.storage.path(name))  # unlike a rename, it never replaces
        except FileExistsError:
            raise StateError(
                "another process wrote this certificate's number just now", remedy="build it again on top of that one"
            ) from None
        finally:
            self.storage.delete(temporary)  # makes the new name durable as well


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"
