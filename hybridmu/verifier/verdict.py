"""Verdict on a certificate: what was looked at, in words, as JSON, and as an exit code."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .checks import check, check_chain
from .plain_data import fingerprint, parse
from .shard_evidence import Finding
from .statements import shown_by, unshown_by

HOLDS, DOES_NOT_HOLD, ERROR, UNASKED = 0, 1, 2, 5


@dataclass(frozen=True)
class Verdict:
    """What a check of one certificate found.

    Attributes:
        document: The certificate; any JSON data where it does not hold, None where the file is none.
        findings: Everything that was looked at.
        trusted_key_given: Whether the signature was compared with keys of the operator.
        without_key: Whether the arithmetic alone was asked for, by whomever it is signed.
    """

    document: Any
    findings: tuple[Finding, ...]
    trusted_key_given: bool
    without_key: bool = False

    @property
    def ok(self) -> bool:
        """Return whether all of it holds."""
        return bool(self.findings) and all(finding.ok for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """Return 0 for what holds as it was asked, 1 for what does not, 5 where nobody asked who signed it."""
        if not self.ok:
            return DOES_NOT_HOLD
        return HOLDS if self.trusted_key_given or self.without_key else UNASKED

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {
            "ok": self.ok,
            "trusted_key_given": self.trusted_key_given,
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
            "shows": shown_by(self.document) if self.ok else [],
            "does_not_show": unshown_by(self.document) if self.ok else [],
        }

    def lines(self) -> list[str]:
        """Return the verdict in words."""
        said = []
        for finding in self.findings:
            detail = f": {finding.detail}" if finding.detail else ""
            said.append(f"{'holds' if finding.ok else 'DOES NOT HOLD':13}  {finding.claim}{detail}")
        if not self.ok:
            return [*said, "This certificate does not hold."]
        document = self.document
        said.append(f"Certificate {document['number']} of system {document['system']} holds. What it shows:")
        said += [f"  {sentence}" for sentence in shown_by(document)]
        said.append("What it does not show:")
        said += [f"  {sentence}" for sentence in unshown_by(document)]
        if not self.trusted_key_given:
            said.append(
                "Nobody is authenticated: anybody can sign such a document. Compare "
                f"{document['signature']['public_key']} with the operator's key."
            )
        if self.exit_code == UNASKED:
            said.append(
                "Exit code 5: pass the operator's key (--public-key), or ask for the arithmetic alone (--without-key)."
            )
        return said


def judge(
    name: str,
    data: bytes,
    trusted: Collection[bytes] | None,
    *,
    without_key: bool = False,
    chain: Mapping[str, bytes] | None = None,
) -> Verdict:
    """Return the verdict on the bytes of a certificate; bad ones are a finding, never an error.

    Args:
        name: Of its file, for findings.
        data: Of its file.
        trusted: Public keys of 32 bytes, one of which must have signed; None: the signer is only named.
        without_key: Whether that is what was asked for.
        chain: Name → bytes of all certificates of the system; it has to be one of them.
    """
    document, found = _read(name, data)
    if not found:
        found += check(document, trusted).items
    if chain is not None:
        found += _in_chain(document, chain, trusted)
    return Verdict(document, tuple(found), trusted is not None, without_key)


def files_in(folder: Path) -> dict[str, bytes]:
    """Return name → bytes of the certificates in a folder.

    Raises:
        OSError: It can't be read.
    """
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix == ".json"}


def _read(name: str, data: bytes) -> tuple[Any, list[Finding]]:
    """Return the document in a file, and what keeps it from being one."""
    try:
        return parse(data), []
    except ValueError as error:
        return None, [Finding(False, f"{name} is a JSON document without doubled keys", str(error))]


def _in_chain(document: Any, files: Mapping[str, bytes], trusted: Collection[bytes] | None) -> list[Finding]:
    read = [_read(name, data) for name, data in files.items()]
    documents: Sequence[Any] = sorted((found for found, _ in read), key=_number)
    findings = [finding for _, wrong in read for finding in wrong]
    findings += check_chain(documents, trusted).items
    number = _number(document)
    same = 1 <= number <= len(documents) and fingerprint(documents[number - 1]) == fingerprint(document)
    claim = "the chain has this certificate at its number, unchanged"
    return [*findings, Finding(same, claim, "" if same else "it has another one, or none")]


def _number(document: Any) -> int:
    number = document.get("number") if isinstance(document, dict) else None
    return number if isinstance(number, int) else 0
