"""`hybridmu certificate …`: checks of certificates anywhere, and a list of those of a system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import ConfigOption, GroupOption, IdOption, JsonOption
from hybridmu.cli.output import emit, errors, out, print_table
from hybridmu.config import Settings
from hybridmu.core.proof.certificate_check import check, check_chain
from hybridmu.core.proof.evidence import Finding
from hybridmu.core.proof.plain_certificate import fingerprint, parse
from hybridmu.core.proof.statements import shown_by, unshown_by
from hybridmu.errors import ConfigError, RequestError
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring, load_public_keys
from hybridmu.store.storage.storage import Storage
from hybridmu.types import KeyKind

if TYPE_CHECKING:
    from hybridmu.runtime.audit.replay import Replay

app = typer.Typer(no_args_is_help=True, help="Certificates of deletion: verify, list, show, find.")
_UNASKED = 5
_EXITS = {"confirmed": 0, "refuted": 1, "superseded": 3, "not replayable here": 4}  # by verdict


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="Path of the certificate.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="File of the operator's public keys, PEM or hex.")
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Check the arithmetic alone, whoever signed the certificate.")
    ] = False,
    chain: Annotated[Path | None, typer.Option("--chain", help="Folder with all certificates of the system.")] = None,
    again: Annotated[
        bool, typer.Option("--replay", help="Train the certificate's shards again and compare; needs -c.")
    ] = False,
    config_file: Annotated[
        Path | None, typer.Option("-c", "--config", help="Path of the YAML configuration, for --replay.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check signature, chains and proofs, without configuration or storage; fails when anything does not hold.

    Exit codes: 0 it holds, signed by one of the given keys (all of the chain, with --chain), and a replay confirmed it;
    1 something does not hold, or was refuted; 2 an error; 3 it is superseded by a later certificate; 4 not replayable
    here; 5 it holds, but by whom it was signed was not asked: pass --public-key, or --without-key.
    """  # noqa: DOC501
    replayed: Replay | None = None
    with errors(as_json):
        if public_key is not None and without_key:
            raise RequestError("--public-key and --without-key exclude each other")
        settings = _settings(again, config_file)
        trusted = None if public_key is None else load_public_keys(public_key.read_bytes())
        if trusted is None and settings is not None:
            trusted = [*Keyring(settings).public_keys().values()]
        document, found = _read(file)
        if not found:
            found += check(document, trusted).items
        if chain is not None:
            found += _in_chain(document, chain, trusted)
        ok = all(finding.ok for finding in found)
        if ok and settings is not None:
            from hybridmu.runtime.audit.replay import replay  # trains; a certificate is checked without PyTorch

            replayed = replay(settings, document)
    known = trusted is not None
    code = 1 if not ok else _EXITS[replayed.verdict] if replayed else 0 if known or without_key else _UNASKED
    result = {
        "ok": ok,
        "trusted_key_given": known,
        "exit_code": code,
        "findings": [asdict(finding) for finding in found],
        "shows": shown_by(document) if ok else [],
        "does_not_show": unshown_by(document) if ok else [],
        "replay": None if replayed is None else asdict(replayed),
    }
    emit(result, as_json, lambda: _verified(document, found, known, without_key, replayed))
    if code:
        raise typer.Exit(code)


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
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    emit(document, as_json, lambda: print(text, file=out.file))


@app.command()
def find(
    config_file: ConfigOption,
    ids: IdOption = None,
    groups: GroupOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which certificates are about an id or group, by the operator's guard keys; fails when one has none."""  # noqa: DOC501
    with errors(as_json):
        asked: list[tuple[KeyKind, str]] = [("id", text) for text in ids or ()]
        asked += [("group", text) for text in groups or ()]
        if not asked:
            raise RequestError("the search names no id or group", expected="--id or --group")
        keyring, documents = Keyring(config.load(config_file)), _store(config_file).all()
        found = [_covering(keyring, documents, kind, text) for kind, text in asked]
    emit(found, as_json, lambda: _found(found))
    if not all(each["certificates"] for each in found):
        raise typer.Exit(1)


def _covering(keyring: Keyring, documents: Sequence[dict[str, Any]], kind: KeyKind, text: str) -> dict[str, Any]:
    # 7 and "7" are two ids; what the column holds may be gone with the tables.
    forms: list[object] = [text]
    with suppress(ValueError):
        forms.append(int(text))
    macs = {mac.hex() for some in keyring.macs(kind, forms).values() for mac in some}
    numbers = [d["number"] for d in documents if any(k["kind"] == kind and k["mac"] in macs for k in d["keys"])]
    return {"kind": kind, "value": text, "certificates": numbers}


def _settings(again: bool, config_file: Path | None) -> Settings | None:
    """Return the configuration of the system that is asked to replay.

    Raises:
        ConfigError: None is named.
    """
    if not again:
        return None
    if config_file is None:
        raise ConfigError("--replay needs the system that issued the certificate", remedy="name it: -c CONFIG")
    from hybridmu.datasets import catalog  # as above

    settings = config.load(config_file)
    return catalog.resolved(settings)


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


def _verified(document: Any, found: list[Finding], trusted: bool, without_key: bool, replayed: Replay | None) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    for finding in found:
        detail = f": {finding.detail}" if finding.detail else ""
        say(f"{'holds' if finding.ok else 'DOES NOT HOLD':13}  {finding.claim}{detail}")
    if not all(finding.ok for finding in found):
        say("This certificate does not hold.")
        return
    say(f"Certificate {document['number']} of system {document['system']} holds. What it shows:")
    for sentence in shown_by(document):
        say(f"  {sentence}")
    say("What it does not show:")
    for sentence in unshown_by(document):
        say(f"  {sentence}")
    if not trusted:
        key = document["signature"]["public_key"]
        say(f"Nobody is authenticated: anybody can sign such a document. Compare {key} with the operator's key.")
        if not without_key:
            say("Exit code 5: pass the operator's key (--public-key), or ask for the arithmetic alone (--without-key).")
    if replayed is not None:
        say(f"Replay: {replayed.verdict}. {replayed.detail}.")


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


def _found(found: Sequence[dict[str, Any]]) -> None:
    for each in found:
        numbers = ", ".join(map(str, each["certificates"])) or "none"
        out.print(f"{each['kind']} {each['value']}: {numbers}", markup=False, highlight=False)


def _listed(found: list[dict[str, Any]]) -> None:
    if not found:
        out.print("no certificates yet")
        return
    table = Table(*found[0])
    for row in found:
        table.add_row(*map(str, row.values()))
    print_table(table)
