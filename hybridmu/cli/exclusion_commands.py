"""`hybridmu exclusions …`: manifests of what must not be trained on again, for those who train on copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridmu import config
from hybridmu.cli.options import ConfigOption, JsonOption
from hybridmu.cli.output import emit, err, errors, out, tell
from hybridmu.cli.system_access import open_system
from hybridmu.core.proof.exclusions import Exclusions, Manifest, exclusion_key_id, read_keys, read_manifest
from hybridmu.errors import RequestError
from hybridmu.store.keyring import Keyring, load_public_keys

if TYPE_CHECKING:
    import pyarrow as pa

app = typer.Typer(
    no_args_is_help=True, help="Training exclusions: manifests for holders of copies; docs/exclusions.md."
)
_VersionOption = Annotated[int | None, typer.Option("--version", min=1, help="Version; the newest by default.")]
_TableArgument = Annotated[str, typer.Argument(help="Path of a table: a copy of the data, or a part of it.")]
_ManifestOption = Annotated[Path, typer.Option("--manifest", exists=True, dir_okay=False, help="Path of the manifest.")]
_KeyOption = Annotated[
    Path, typer.Option("--key", exists=True, dir_okay=False, help="Path of what `hybridmu exclusions key` printed.")
]
_PublicOption = Annotated[
    Path | None,
    typer.Option("--public-key", exists=True, dir_okay=False, help="Path of the operator's public signing keys."),
]
_WithoutOption = Annotated[bool, typer.Option("--without-key", help="Believe the public key in the manifest itself.")]


@app.command()
def make(
    config_file: ConfigOption,
    version: _VersionOption = None,
    output: Annotated[Path | None, typer.Option("--output", help="Path of the file; printed by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the signed manifest of what a version is without; keyed digests, never ids."""
    with open_system(config_file, as_json) as system:
        document = system.exclusions(version)
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
        if output is not None:
            output.write_text(f"{text}\n", encoding="utf-8")
    if output is None:
        print(text, file=out.file)
        return
    count = sum(len(one["digests"]) for one in document["lists"])
    result = {"file": str(output), "version": document["version"], "listed": count, "unlisted": document["unlisted"],
              "later": document["later"]}  # fmt: skip
    emit(result, as_json, lambda: _made(result))


@app.command()
def key(config_file: ConfigOption, as_json: JsonOption = False) -> None:
    """Print the secret key of the manifests: its holder can test who was forgotten; docs/exclusions.md."""  # noqa: DOC501
    with errors(as_json):
        keys = Keyring(config.load(config_file)).exclusion_keys().values()
        if not keys:
            raise RequestError(
                "there is no key yet", expected="a system that has forgotten something", remedy="it comes by itself"
            )
        found = [{"key_id": exclusion_key_id(one), "key": one.hex()} for one in keys]
    emit({"keys": found}, as_json, lambda: print("\n".join(one["key"] for one in found), file=out.file))
    err.print("whoever has these lines and a manifest can test whether a person he can name was forgotten")


@app.command("filter")
def filter_(
    table: _TableArgument,
    manifest: _ManifestOption,
    key_file: _KeyOption,
    public_key: _PublicOption = None,
    without_key: _WithoutOption = False,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of ids, if it is named otherwise here.")] = None,
    group_column: Annotated[
        str | None, typer.Option("--group", help="Column of groups, if it is named otherwise here.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Path of the table without these rows; by its name in any format.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find rows that a manifest excludes; with --output write the others, without it fail when there are some."""  # noqa: DOC501
    with errors(as_json):
        if (public_key is None) != without_key:
            raise RequestError("say whose manifest it is", expected="--public-key FILE, or --without-key")
        trusted = None if public_key is None else load_public_keys(public_key.read_bytes())
        said = read_manifest(manifest.read_bytes(), trusted)
        exclusions = Exclusions(said, read_keys(key_file.read_bytes()))
        result = _sift(table, exclusions, id_column, group_column, output)
    emit(result, as_json, lambda: _sifted(result, said))
    if output is None and result["excluded"]:
        raise typer.Exit(1)


def _sift(
    source: str, exclusions: Exclusions, id_column: str | None, group_column: str | None, output: Path | None
) -> dict[str, Any]:
    """Return how many rows a table has and how many are excluded; the others are written where that is asked."""
    import pyarrow as pa  # late, as below: the other verbs do without tables

    from hybridmu.cli.answer_files import check_answer_file, write_answers
    from hybridmu.cli.excluded_rows import CopyReader

    copy = CopyReader(source, exclusions, id_column, group_column)
    if output is None:
        for _ in copy.kept():
            pass
    else:
        check_answer_file(output, source)
        reader: pa.RecordBatchReader = pa.RecordBatchReader.from_batches(copy.schema, copy.kept())
        write_answers(reader, output)
    return {"rows": copy.rows, "excluded": copy.excluded, "file": None if output is None else str(output)}


def _made(result: dict[str, Any]) -> None:
    tell(f"{result['file']}: version {result['version']} is without {result['listed']} id(s) and group(s)")
    if result["unlisted"]:
        tell(f"NOT listed: {result['unlisted']}, forgotten under an earlier release; asked again by name, they are")
    if result["later"]:
        tell(f"accepted since, and in the manifest of a later version: {result['later']}")


def _sifted(result: dict[str, Any], manifest: Manifest) -> None:
    tell(f"{result['excluded']} of {result['rows']} row(s) are excluded, by version {manifest.version}")
    if result["file"]:
        tell(f"the others: {result['file']}")
    if manifest.unlisted:
        tell(f"{manifest.unlisted} more id(s) and group(s) are forgotten that this manifest can't name")
