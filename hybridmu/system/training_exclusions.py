"""Manifests of what must not be trained on again, made and signed for one version."""

from __future__ import annotations

import time
from typing import Any

from hybridmu.core.proof.certificate import sign
from hybridmu.core.proof.exclusions import KeyColumn, KeyColumns, build, exclusion_key_id
from hybridmu.errors import RequestError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.system.arguments import AnyCount, checked
from hybridmu.system.session import Session
from hybridmu.types import KeyKind
from hybridmu.verifier.plain_data import moment


class TrainingExclusions:
    """Exclusion manifests of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def exclusions(self, version: AnyCount = None) -> dict[str, Any]:
        """Return the signed manifest of what a version is without, for those who train on copies of the data.

        It holds keyed digests of ids and groups, no raw ones; `hybridmu exclusions key` prints the key that tells
        them. Nothing is stored.

        Args:
            version: Its number; the newest by default.

        Raises:
            RequestError: There is no such version.
            StateError: A guard key is lost whose digests would be listed, or the signing key is.
        """
        session = self._session
        session.check_bound()
        newest = session.registry.version().version
        if version is not None and version > newest:
            raise RequestError("there is no such version", expected=f"1 to {newest}", got=str(version))
        number = newest if version is None else version
        listed = session.database.exclusions.of_version(number)
        names = {name: exclusion_key_id(key) for name, key in session.keyring.exclusion_keys().items()}
        if lost := sorted({name for name, _ in listed.digests} - names.keys()):
            raise StateError(
                "forgotten ids and groups can't be listed: their guard key is lost, and the manifest's with it",
                expected=f"guard key(s) {', '.join(lost)}",
                remedy="restore the key files from their backup (docs/keys.md)",
            )
        document = build(
            system=session.database.identity.system(),
            version=number,
            issued_at=moment(time.time()),
            columns=self._columns(),
            digests={(names[name], kind): found for (name, kind), found in listed.digests.items()},
            unlisted=listed.unlisted,
            later=listed.later,
        )
        certificates = Certificates(session.storage)
        last = certificates.last()
        signer = None if last is None else str(last["signature"]["key_id"])
        return sign(document, session.keyring.signing_key(signer, certificates.signers))

    def _columns(self) -> KeyColumns:
        data, manifest = self._session.settings.data, self._session.lake.manifest
        group = manifest.group_type
        return KeyColumns(
            id=_column("id", data.id, manifest.id_type),
            group=None if group is None or data.group is None else _column("group", data.group, group),
        )


def _column(kind: KeyKind, name: str | None, type_: str) -> KeyColumn:
    return KeyColumn(name or kind, "integer" if "int" in type_ else "text")
