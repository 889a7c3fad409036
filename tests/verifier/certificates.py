"""Certificates for the verifier's tests: good ones, forged ones, and chains, as files beside the operator's key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from hybridmu.core.proof.certificate import sign
from hybridmu.verifier.plain_data import canonical
from tests import sample_certificates as made

GOOD = "good"


def forgeries() -> dict[str, dict[str, Any]]:
    """Return name → a document that must not hold: changed after signing, signed again with a lie, foreign."""
    document = made.signed()
    found = {lie: sign(made.replaced(document, path, value), made.KEY) for lie, (path, value) in made.LIES.items()}
    for path in made.leaves(document):
        value = made.flipped(made.at(document, path), 0)
        found[f"changed {'.'.join(map(str, path))}"] = made.replaced(document, path, value)
    found["unsigned"] = {name: value for name, value in document.items() if name != "signature"}
    found["another format"] = sign({**document, "format": "hybridmu-certificate/2"}, made.KEY)
    parts = sorted({path[:cut] for path in made.leaves(document) for cut in range(len(path))}, key=str)
    for path in parts:
        changed = copy.deepcopy(document)
        part = made.at(changed, path)
        if isinstance(part, dict) and path[:2] != ("purge", "looked") and path != ("signature",):
            part["proves"] = "everything"
            found[f"a field more in {'.'.join(map(str, path))}"] = sign(changed, made.KEY)
    found["signed by another"] = sign(document, made.OTHER)
    return found


def spoken(identity: str, **request: Any) -> dict[str, Any]:
    """Return a good certificate whose request has this id."""
    document = copy.deepcopy(made.signed())
    document["request"] |= {"id": identity, **request}
    return sign(document, made.KEY)


def write(folder: Path, documents: dict[str, Any]) -> dict[str, Path]:
    """Write documents and the operator's public key into a folder; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    pem = made.KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "operator.pub.pem").write_bytes(pem)
    files = {}
    for number, (name, document) in enumerate(documents.items(), start=1):
        files[name] = folder / f"{number:04}.json"
        files[name].write_text(json.dumps(document, indent=1))
        assert canonical(json.loads(files[name].read_text())) == canonical(document)
    return files
