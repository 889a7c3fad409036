"""`hybridmu keys …`: a list of the signing and guard keys, and their rotation."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import typer

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, errors, tell
from hybridmu.config import Settings
from hybridmu.store.keyring import KeyName, Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.engine.opening import has_tables
from hybridmu.store.ledger.key_uses import used_numbers
from hybridmu.store.storage.storage import Storage

app = typer.Typer(no_args_is_help=True, help="Signing and guard keys; see docs/keys.md.")


class RotatedKey(StrEnum):
    """The keys that can be rotated."""

    signing = "signing"
    guard = "guard"


@app.command()
def show(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the ids of all keys, and the public keys that auditors need; no secret."""
    with errors(as_json):
        settings = config.load(config_file)
        ring = Keyring(settings)
        public = {name: key.hex() for name, key in ring.public_keys().items()}
        result = {
            "signing": {"where": _where(settings, RotatedKey.signing), "public_keys": public},
            "guard": {"where": _where(settings, RotatedKey.guard), "key_ids": list(ring.guard_keys())},
        }
    emit(result, as_json, lambda: _shown(result))


@app.command()
def rotate(which: RotatedKey, config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Start a new key; the old signing key is destroyed, old guard keys stay for checking."""
    with errors(as_json):
        settings = config.load(config_file)
        name = Keyring(settings).rotate(which.value, _used(settings, which.value))
    emit({"key": which.value, "key_id": name}, as_json, lambda: tell(f"{which.value} key {name} is in use now"))


def _used(settings: Settings, which: KeyName) -> int:
    """Return how many keys the system is known to have used, whatever is left in the folder."""
    storage = Storage(settings.storage_url)
    if which == "signing" or not has_tables(settings.database):  # nothing was trained yet, or the ledger is lost
        return used_numbers(which, None, storage)
    database = Database.open(settings.database)
    try:
        return used_numbers(which, database.engine, storage)
    finally:
        database.close()


def _where(settings: Settings, which: RotatedKey) -> str:
    source: str | None = getattr(settings.keys, which)
    return source or str(settings.keys_folder)


def _shown(result: dict[str, Any]) -> None:
    for name, ids in (("signing", result["signing"]["public_keys"]), ("guard", result["guard"]["key_ids"])):
        tell(f"{name} key, in {result[name]['where']}" + ("" if ids else ": none yet, it is made on first use"))
        for key in ids:
            newest = "in use" if key == [*ids][-1] else "old"
            tell(f"  {key}  {newest}" + (f"  public key {ids[key]}" if name == "signing" else ""))
