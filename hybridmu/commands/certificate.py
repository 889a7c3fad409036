"""`hybridmu certificate …`: check certificates anywhere, look at those of a system."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.commands.console import ConfigOption, JsonOption, emit, errors, out
from hybridmu.core.certificate import check, check_chain, fingerprint, parse
from hybridmu.core.evidence import Finding
from hybridmu.store.certificates import Certificates
from hybridmu.store.keys import load_public_keys
from hybridmu.store.storage import Storage

app = typer.Typer(no_args_is_help=True, help="Certificates of deletion.")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="Keys to trust, from the operator: PEM, or hex.")
    ] = None,
    chain: Annotated[Path | None, typer.Option("--chain", help="Folder with all certificates of the system.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check signature, chains and proofs, without configuration or storage; fails when anything does not hold."""  # noqa: DOC501
    with errors(as_json):
        trusted = None if public_key is None else load_public_keys(public_key.read_bytes())
        document, found = _read(file)
        if not found:
            found += check(document, trusted).items
        if chain is not None:
            found += _in_chain(document, chain, trusted)
    ok = all(finding.ok for finding in found)
    result = {"ok": ok, "trusted_key_given": trusted is not None, "findings": [asdict(finding) for finding in found]}
    emit(result, as_json, lambda: _verified(document, found, trusted is not None))
    if not ok:
        raise typer.Exit(1)


@app.command("list")
def list_(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List the certificates of a system."""
    with errors(as_json):
        found = [_summary(document) for document in _store(config_file).all()]
    emit(found, as_json, lambda: _listed(found))


@app.command()
def show(number: int, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Print one certificate."""
    with errors(as_json):
        document = _store(config_file).get(number)
    emit(document, as_json, lambda: print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)))


def _store(config_file: Path) -> Certificates:
    return Certificates(Storage(config.load(config_file).storage_url))


def _read(file: Path) -> tuple[Any, list[Finding]]:
    """Return the document in a file, and what keeps it from being one."""
    try:
        return parse(file.read_bytes()), []
    except ValueError as error:
        return None, [Finding(False, f"{file.name} is a JSON document without doubled keys", str(error))]


def _in_chain(document: Any, folder: Path, trusted: list[bytes] | None) -> list[Finding]:
    read = [_read(file) for file in sorted(folder.iterdir()) if file.suffix == ".json"]
    documents = sorted((found for found, _ in read), key=_number)
    findings = [finding for _, wrong in read for finding in wrong]
    findings += check_chain(documents, trusted).items
    number = _number(document)
    same = 1 <= number <= len(documents) and fingerprint(documents[number - 1]) == fingerprint(document)
    claim = "the chain has this certificate at its number, unchanged"
    return [*findings, Finding(same, claim, "" if same else "it has another one, or none")]


def _number(document: Any) -> int:
    number = document.get("number") if isinstance(document, dict) else None
    return number if isinstance(number, int) else 0


def _verified(document: Any, found: list[Finding], trusted: bool) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    for finding in found:
        detail = f": {finding.detail}" if finding.detail else ""
        say(f"{'holds' if finding.ok else 'DOES NOT HOLD':13}  {finding.claim}{detail}")
    if not all(finding.ok for finding in found):
        say("This certificate does not hold.")
        return
    say(f"Certificate {document['number']} of system {document['system']} holds. What it does not show:")
    for sentence in document["not_proven"]:
        say(f"  {sentence}")
    if not trusted:
        key = document["signature"]["public_key"]
        say(f"Whose key signed it was not checked: compare {key} with the operator's, or pass --public-key.")


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": document["number"],
        "request_id": document["request"]["id"],
        "kind": document["request"]["kind"],
        "issued_at": document["times"]["issued_at"],
        "keys": len(document["keys"]),
        "shards": len(document["shards"]),
        "signed_by": document["signature"]["key_id"],
    }


def _listed(found: list[dict[str, Any]]) -> None:
    if not found:
        out.print("no certificates yet")
        return
    table = Table(*found[0])
    for row in found:
        table.add_row(*map(str, row.values()))
    out.print(table)
