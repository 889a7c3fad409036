"""Command line of the verifier: `hybridmu-verify FILE… --public-key KEY [--chain FOLDER] [--html PAGE] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .page import page
from .plain_data import visible
from .public_keys import public_keys
from .verdict import ERROR, UNASKED, Verdict, files_in, judge

_CODES = """exit codes:
  0  every certificate holds, signed by one of the given keys; with --chain all of the chain is
  1  something does not hold, and which sentence
  2  a file can't be read, or the call is wrong
  5  all of it holds, but no key was given: anybody can sign such a document"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check certificates and print what was found.

    Args:
        arguments: Files and options; those of this process by default.

    Returns:
        The exit code, as `--help` says.
    """
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.public_key and asked.without_key:
        parser.error("--public-key and --without-key exclude each other")
    if asked.html is not None and len(asked.files) > 1:
        parser.error("--html makes the page of one certificate; call it once for each")
    try:
        trusted = [key for file in asked.public_key for key in public_keys(file.read_bytes())] or None
        chain = None if asked.chain is None else files_in(asked.chain)
        found = {
            str(file): judge(file.name, file.read_bytes(), trusted, without_key=asked.without_key, chain=chain)
            for file in asked.files
        }
        if asked.html is not None:
            asked.html.write_text(page(*found.values()), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return ERROR
    codes = {verdict.exit_code for verdict in found.values()}
    code = next((code for code in (1, UNASKED) if code in codes), 0)
    if asked.json:
        certificates = [{"file": file, **verdict.as_json()} for file, verdict in found.items()]
        print(json.dumps({"exit_code": code, "certificates": certificates}))
    else:
        _say(found)
    return code


def _say(found: dict[str, Verdict]) -> None:
    for number, (file, verdict) in enumerate(found.items()):
        heading = [*([""] if number else []), f"{file}:"] if len(found) > 1 else []
        print("\n".join(map(visible, [*heading, *verdict.lines()])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hybridmu-verify",
        description="Check certificates of deletion by arithmetic alone, without the operator's software or data.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a certificate, JSON")
    parser.add_argument(
        "--public-key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="the operator's public keys, PEM or hex; may be repeated",
    )
    parser.add_argument("--without-key", action="store_true", help="check the arithmetic alone, without a signer's key")
    parser.add_argument("--chain", type=Path, metavar="FOLDER", help="all certificates of the system")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the certificate as a page to read or print")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    name = (__package__ or "").partition(".")[0].replace("_", "-")
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # as one file, which nobody installed
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
