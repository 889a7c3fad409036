"""`hybridmu certificate …`: checks of certificates anywhere, and a list of those of a system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import ConfigOption, GroupOption, IdOption, JsonOption
from hybridmu.cli.output import emit, errors, out, print_table, tell
from hybridmu.config import Settings
from hybridmu.errors import ConfigError, RequestError
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring, load_public_keys
from hybridmu.store.storage.storage import Storage
from hybridmu.system.person_lookup import certificates_about
from hybridmu.types import KeyKind
from hybridmu.verifier.page import page
from hybridmu.verifier.plain_data import canonical
from hybridmu.verifier.verdict import Verdict, files_in, judge

if TYPE_CHECKING:
    from hybridmu.runtime.audit.replay import Replay

_PageOption = Annotated[
    Path | None, typer.Option("--html", help="Path of a page to write, of the certificate for people to read or print.")
]
app = typer.Typer(no_args_is_help=True, help="Certificates of deletion: verify, list, show, find.")
_EXITS = {"confirmed": 0, "refuted": 1, "superseded": 3, "not replayable here": 4}  # by verdict


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="Path of the certificate.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="File of the operator's public keys, PEM or hex.")
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Check the arithmetic alone, without a signer's key.")
    ] = False,
    chain: Annotated[Path | None, typer.Option("--chain", help="Folder with all certificates of the system.")] = None,
    again: Annotated[
        bool, typer.Option("--replay", help="Train the certificate's shards again and compare; needs -c.")
    ] = False,
    config_file: Annotated[
        Path | None, typer.Option("-c", "--config", help="Path of the YAML configuration, for --replay.")
    ] = None,
    html: _PageOption = None,
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
        files = None if chain is None else files_in(chain)
        verdict = judge(file.name, file.read_bytes(), trusted, without_key=without_key, chain=files)
        if html is not None:
            html.write_text(page(verdict), encoding="utf-8")
        if verdict.ok and settings is not None:
            from hybridmu.runtime.audit.replay import replay  # trains; a certificate is checked without PyTorch

            replayed = replay(settings, verdict.document)
    code = verdict.exit_code if replayed is None or not verdict.ok else _EXITS[replayed.verdict]
    again_json = None if replayed is None else asdict(replayed)
    emit({**verdict.as_json(), "exit_code": code, "replay": again_json}, as_json, lambda: _verified(verdict, replayed))
    if code:
        raise typer.Exit(code)


@app.command("list")
def list_(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List the certificates of a system."""
    with errors(as_json):
        found = [_summary(document) for document in _store(config_file).all()]
    emit(found, as_json, lambda: _listed(found))


@app.command()
def show(number: int, config_file: ConfigOption, html: _PageOption = None, as_json: JsonOption = False) -> None:
    """Print one certificate, or write a page of it."""
    with errors(as_json):
        document = _store(config_file).get(number)
        if html is not None:
            trusted = [*Keyring(config.load(config_file)).public_keys().values()]
            html.write_text(page(judge(f"certificate {number}", canonical(document), trusted)), encoding="utf-8")
            emit({"page": str(html)}, as_json, lambda: tell(f"certificate {number} to read or print: {html}"))
            return
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
        found = [
            {"kind": kind, "value": text, "certificates": certificates_about(keyring, documents, kind, text)}
            for kind, text in asked
        ]
    emit(found, as_json, lambda: _found(found))
    if not all(each["certificates"] for each in found):
        raise typer.Exit(1)


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


def _verified(verdict: Verdict, replayed: Replay | None) -> None:
    for line in verdict.lines():
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if replayed is not None:
        out.print(f"Replay: {replayed.verdict}. {replayed.detail}.", markup=False, highlight=False, soft_wrap=True)


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
