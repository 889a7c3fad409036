"""`hybridmu api`: the HTTP interface for requests; `hybridmu tokens …`: its bearer tokens."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, err, errors, print_table, tell
from hybridmu.core.token_scopes import SCOPES, Token
from hybridmu.extras import extra
from hybridmu.logs import start_logging
from hybridmu.store.ledger.tokens import Tokens
from hybridmu.system.system import connect

tokens_app = typer.Typer(no_args_is_help=True, help="Bearer tokens of the HTTP interface; see docs/api.md.")
TokenArgument = Annotated[str, typer.Argument(help="Public part of the token, as `tokens list` shows it.")]
_HOUR = 3600.0


def api(config_file: ConfigOption) -> None:
    """Answer HTTP calls for requests, plans and certificates until interrupted; docs/api.md."""
    with errors(as_json=False):
        with extra("serve"):
            from hybridmu.server.app import make_app  # late: half a second of imports that no other verb needs
            from hybridmu.server.connections import make_server
        settings = config.load(config_file)
        with connect(settings, "local") as system:
            system.page(limit=1)  # a system that is not there, or another one's, is refused here
        app = make_app(settings)
    start_logging(settings.logs)
    where = settings.api
    err.print(f"answering on http://{where.host}:{where.port}, until interrupted", soft_wrap=True)
    if where.host not in {"127.0.0.1", "localhost", "::1"}:
        err.print("tokens and ids travel unencrypted: put a proxy with TLS in front", style="yellow")
    make_server(app, where).run()


@tokens_app.command()
def create(
    caller: Annotated[str, typer.Argument(help="Name of the token's holder.")],
    config_file: ConfigOption,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help=f"Scope of the token: one of {', '.join(SCOPES)}; may be repeated."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Hours until the token expires; without it the token is valid until revoked."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once."""
    with errors(as_json):
        text, token = _tokens(config_file).create(caller, scope or (), None if hours is None else hours * _HOUR)
    emit({**_plain(token), "token": text}, as_json, lambda: _made(text, token))


@tokens_app.command()
def rotate(
    token_id: TokenArgument,
    config_file: ConfigOption,
    grace: Annotated[
        float, typer.Option("--grace-hours", min=0, help="Hours for which the old token stays valid.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Make a token in the place of another, which ends."""
    with errors(as_json):
        text, token = _tokens(config_file).rotate(token_id, grace * _HOUR)
    emit({**_plain(token), "token": text}, as_json, lambda: _made(text, token))


@tokens_app.command()
def revoke(token_id: TokenArgument, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """End a token; processes that answer notice within `api.token_seconds`."""
    with errors(as_json):
        _tokens(config_file).revoke(token_id)
    emit({"revoked": token_id}, as_json, lambda: tell(f"{token_id} is revoked"))


@tokens_app.command("list")
def list_(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """List all tokens that were ever made; no secret."""
    with errors(as_json):
        found = [_plain(token) for token in _tokens(config_file).all()]
    emit(found, as_json, lambda: _listed(found))


def _tokens(config_file: Any) -> Tokens:
    with connect(config.load(config_file), "local") as system:
        system.session.check_bound()
        return system.database.tokens


def _plain(token: Token) -> dict[str, Any]:
    return {
        "token_id": token.token_id,
        "caller": token.caller,
        "scopes": sorted(token.scopes),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "valid": token.valid(time.time()),
    }


def _made(text: str, token: Token) -> None:
    tell(text)
    err.print(f"keep it now, it can't be shown again: for {token.caller}, {', '.join(sorted(token.scopes))}")


def _listed(found: list[dict[str, Any]]) -> None:
    table = Table("token", "caller", "scopes", "made", "ends", "counts")
    for one in found:
        ends = one["revoked_at"] or one["expires_at"]
        moments = ("" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in
                   (one["created_at"], ends))  # fmt: skip
        table.add_row(
            one["token_id"], one["caller"], ", ".join(one["scopes"]), *moments, "yes" if one["valid"] else "no"
        )
    print_table(table)
