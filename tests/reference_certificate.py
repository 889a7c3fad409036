"""An independent check of certificates, written from docs/certificate.md; shares no code with hybridmu.

Run as ``python reference_certificate.py FILE [FILE ...] [--key HEX_OR_FILE ...] [--chain]``; needs `cryptography`.
Exit codes: 0 everything holds, signed by one of the given keys; 1 something does not hold; 2 a file can't be read, or
the call is wrong; 5 everything holds, but no key was given, so nobody is authenticated.
"""

import argparse
import hashlib
import json
import re
import sys
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

EXACT = {"retrain", "subtract"}  # every other strategy is an update that is not, of whatever name
PREDECESSOR = {"system", "version", "tombstones", "rows", "root"}
# Fields of every part; those with "?" may be missing.
FIELDS = {
    "document": "format number previous system predecessor request keys shards purge times not_proven signature",
    "request": "id kind received_at deadline_at planned_at applied_at served_at exact_at purged_at",
    "key": "kind mac key_id",
    "purge": "rows rows_earlier? tables files duplicates_left looked",
    "times": "issued_at seconds_to_applied seconds_to_served seconds_to_exact seconds_to_purged deadline_kept "
    "clock_set_back?",
    "signature": "key_id public_key value",
    "shard": "shard stages before after proofs evidence exactness?",
    "stage": "strategy version exact",
    "state": "head links weights",
    "link": "slice epochs rows root key",
    "proof": "slice leaf inclusion absence",
    "inclusion": "leaf index size path",
    "absence": "leaf size left right",
    "evidence": "verified how forget_loss_gap revoked_rows",
}
ADMITTED = [
    "That the trees held every row of the table, and in order: whoever signs vouches for that.",
    "That a leaf belongs to a person: leaves and HMACs are keyed, so that they can't be guessed from outside.",
    "That no copy was made outside of this system: backups, exports, logs of others, models trained elsewhere.",
    "What was learnt about the rows from answers and versions that were given out before.",
    "That weights equal a new training, unless the evidence says verified: yes; then on the machine it names.",
    "That the clock of the system was right.",
]


def h(data: bytes, person: bytes = b"", size: int = 32) -> bytes:
    return hashlib.blake2b(data, digest_size=size, person=person).digest()


def canonical(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Root that a path leads to, by the recursive shape: the left part is the largest power of two."""

    def top(index: int, size: int) -> bytes:
        if size == 1:
            return leaf
        cut = 1 << (size - 1).bit_length() - 1
        here = top(index, cut) if index < cut else top(index - cut, size - cut)
        sibling = path.pop(0)
        return h(here + sibling if index < cut else sibling + here, b"hybridmu-node")

    found = h(size.to_bytes(8, "little") + top(index, size), b"hybridmu-root")
    assert not path
    return found


def at(proof: dict) -> tuple[bytes, int, bytes]:
    """(leaf, index, root) of an inclusion."""
    leaf = bytes.fromhex(proof["leaf"])
    assert 0 <= proof["index"] < proof["size"]
    path = [bytes.fromhex(sibling) for sibling in proof["path"]]
    return leaf, proof["index"], root_of(leaf, proof["index"], proof["size"], path)


def check_absence(proof: dict, root: bytes) -> None:
    value, left, right = bytes.fromhex(proof["leaf"]), -1, proof["size"]
    if proof["size"] == 0:
        assert h(bytes(8) + bytes(32), b"hybridmu-root") == root
    if proof["left"]:
        leaf, left, found = at(proof["left"])
        assert leaf < value
        assert (found, proof["left"]["size"]) == (root, proof["size"])
    if proof["right"]:
        leaf, right, found = at(proof["right"])
        assert leaf > value
        assert (found, proof["right"]["size"]) == (root, proof["size"])
    assert left + 1 == right


def check_chain_of(state: dict) -> None:
    key = bytes.fromhex(state["head"])
    for number, link in enumerate(state["links"], start=1):
        assert link["slice"] == number
        text = f"slice {number} epochs {link['epochs']} rows {link['rows']} root {link['root']}"
        key = h(key + text.encode(), size=24)
        assert key.hex() == link["key"]


def check_fields(document: dict) -> None:
    """Nothing is said beside what the page of the format knows."""

    def only(kind: str, *parts: dict) -> None:
        names = FIELDS[kind].split()
        for part in parts:
            assert {name for name in names if not name.endswith("?")} <= set(part) <= {n.rstrip("?") for n in names}

    only("document", document)
    for name in ("request", "purge", "times", "signature"):
        only(name, document[name])
    only("key", *document["keys"])
    for shard in document["shards"]:
        only("shard", shard)
        only("stage", *shard["stages"])
        only("evidence", shard["evidence"])
        for state in (shard["before"], shard["after"]):
            only("state", state)
            only("link", *state["links"])
        only("proof", *shard["proofs"])
        for proof in shard["proofs"]:
            only("absence", proof["absence"])
            around = (proof["absence"]["left"], proof["absence"]["right"])
            only("inclusion", proof["inclusion"], *(side for side in around if side))


def check_facts(document: dict) -> None:
    """What the document says of the world must be possible."""
    request, times, keys, purge = (document[name] for name in ("request", "times", "keys", "purge"))
    assert request["id"]
    assert request["kind"] in {"forget", "correct"}
    check_times(request, times)
    steps = [request["received_at"], request["planned_at"] or request["received_at"], request["applied_at"]]
    for later in ("served_at", "exact_at"):
        order = [*steps, request[later], request["purged_at"], times["issued_at"]]
        assert order == sorted(order)  # of one form, so that their texts sort as they do
    assert keys
    for key in keys:
        assert key["kind"] in {"id", "group"}
        assert re.fullmatch("[0-9a-f]{64}", key["mac"])
        assert re.fullmatch("[0-9a-f]{16}", key["key_id"])
    numbers = [shard["shard"] for shard in document["shards"]]
    assert numbers
    assert numbers == sorted({int(number) for number in numbers})
    assert document["predecessor"] is None or set(document["predecessor"]) == PREDECESSOR
    assert len({(key["kind"], key["mac"]) for key in keys}) == len(keys)
    rows = sum(len(shard["proofs"]) for shard in document["shards"])
    assert rows <= len(keys) or any(key["kind"] == "group" for key in keys)
    assert set(purge["looked"]) == {"storage", "database"}
    assert all(purge[name] >= 0 for name in ("rows", "tables", "files", "duplicates_left"))
    counts = [purge["looked"]["storage"][name] for name in ("files", "bytes")] + [purge["looked"]["database"]["bytes"]]
    if purge["rows"]:
        counts += [place["needles"] for place in purge["looked"].values()]
    assert all(count > 0 for count in counts)
    check_admitted(document["not_proven"], rows, [key["kind"] for key in keys])
    earlier = purge.get("rows_earlier", 0)
    assert purge["rows"] + earlier >= rows
    assert earlier == 0 or document["number"] > 1


def check_times(request: dict, times: dict) -> None:
    """Every time is of the form that is told, and the durations follow from them."""
    told = {name: value for name, value in request.items() if name.endswith("_at")} | {"issued_at": times["issued_at"]}
    for name, value in told.items():
        optional = value is None and name in {"planned_at", "deadline_at"}
        assert optional or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", value)
    at = {name: datetime.fromisoformat(value) for name, value in told.items() if value is not None}
    for step in ("applied", "served", "exact", "purged"):
        assert times[f"seconds_to_{step}"] == (at[f"{step}_at"] - at["received_at"]).total_seconds()
    due = at.get("deadline_at")
    assert times["deadline_kept"] == (None if due is None else at["purged_at"] <= due)


def check_admitted(told: list[str], rows: int, kinds: list[str]) -> None:
    """The six sentences are there, and after them at most the one that fits the evidence."""
    assert told[:6] == ADMITTED
    keys, more = len(kinds), None
    if rows == 0:
        more = (
            "That rows left a model: no training row of the request was in a trained slice: its rows were in "
            "validation or test tables, or were forgotten before a model saw them. There is no proof, only the search "
            "that the signer states."
        )
    elif "group" in kinds and keys > 1:
        more = (
            f"That every key had rows that left a model: of how many of the {keys} keys the {rows} proof(s) are can't "
            "be told from outside."
        )
    elif rows < keys and "group" not in kinds:
        more = (
            f"That a row of every key left a model: {rows} of {keys} keys have a proof. The others had no row in a "
            "trained slice, as the signer says."
        )
    assert told[6:] in ([], [more])


def check(document: dict) -> None:
    """Raise AssertionError (or what malformed data raises) unless everything holds."""
    check_fields(document)
    check_facts(document)
    assert document["format"] == "hybridmu-certificate/1"
    assert re.fullmatch("[0-9a-f]{1,64}", document["system"])
    signature = document["signature"]
    public = bytes.fromhex(signature["public_key"])
    assert hashlib.sha256(public).hexdigest()[:16] == signature["key_id"]
    body = canonical({name: value for name, value in document.items() if name != "signature"})
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature["value"]), body)
    except InvalidSignature:
        raise AssertionError("signature") from None
    assert (document["number"] == 1) == (document["previous"] is None)
    for shard in document["shards"]:
        before, after = shard["before"], shard["after"]
        check_chain_of(before)
        check_chain_of(after)
        assert len(before["links"]) <= len(after["links"])
        for old, new in zip(before["links"], after["links"], strict=False):
            assert old["epochs"] == new["epochs"]
            assert new["rows"] <= old["rows"]
            assert (new["root"] == old["root"]) == (new["rows"] == old["rows"])
        for proof in shard["proofs"]:
            assert proof["slice"] >= 1
            leaf, _, root = at(proof["inclusion"])
            old, new = before["links"][proof["slice"] - 1], after["links"][proof["slice"] - 1]
            assert leaf.hex() == proof["leaf"] == proof["absence"]["leaf"]
            assert (root.hex(), proof["inclusion"]["size"]) == (old["root"], old["rows"])
            assert proof["absence"]["size"] == new["rows"]
            check_absence(proof["absence"], bytes.fromhex(new["root"]))
        leaves = {(proof["slice"], proof["leaf"]) for proof in shard["proofs"]}
        assert len(leaves) == len(shard["proofs"]) == shard["evidence"]["revoked_rows"]
        for state in (before, after):
            assert state["weights"] is None or re.fullmatch("[0-9a-f]{48}", state["weights"])
        stages, evidence = shard["stages"], shard["evidence"]
        assert stages
        assert stages[-1]["exact"]
        assert [stage["version"] for stage in stages] == sorted(stage["version"] for stage in stages)
        assert evidence["verified"] in {"yes", "no"}
        assert all(re.fullmatch("[a-z][a-z0-9_-]{0,15}", stage["strategy"]) for stage in stages)
        assert all(stage["version"] >= 1 for stage in stages)
        assert all(stage["exact"] == (stage["strategy"] in EXACT) for stage in stages)
        assert evidence["forget_loss_gap"] is None or not stages[0]["exact"]
        assert shard.get("exactness", "bits") in {"bits", "integers"}
        if any(stage["strategy"] == "subtract" for stage in stages):
            assert shard.get("exactness") != "bits"
        roots = [(old["root"], new["root"]) for old, new in zip(before["links"], after["links"], strict=False)]
        if any(old != new for old, new in roots):
            assert before["weights"] != after["weights"] or evidence["verified"] == "yes"


def check_links(documents: list[dict]) -> None:
    """Raise AssertionError unless the certificates are a chain from number 1 on."""
    assert [document["number"] for document in documents] == list(range(1, len(documents) + 1))
    for earlier, later in pairwise(documents):
        assert later["previous"] == hashlib.sha256(canonical(earlier)).hexdigest()
        assert later["system"] == earlier["system"]


def keys_in(text: str) -> set[str]:
    """Public keys, as hex, in 64 hex digits, or in a file of PEM blocks or hex lines."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        text = Path(text).read_text()
    blocks = re.findall("-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", text, flags=re.DOTALL)
    found = {load_pem_public_key(block.encode()).public_bytes_raw().hex() for block in blocks} or set(text.split())
    if not found or not all(re.fullmatch("[0-9a-f]{64}", key) for key in found):
        raise ValueError("no public key")
    return found


def read(file: str) -> dict:
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"{file}: a key occurs twice")
        return dict(pairs)

    return json.loads(Path(file).read_text(), object_pairs_hook=unique)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--key", action="append", default=[], help="public key of the operator: 64 hex digits, or a file"
    )
    parser.add_argument("--chain", action="store_true", help="the files are all certificates of one system")
    asked = parser.parse_args(arguments)
    try:
        documents = [read(file) for file in asked.files]
        trusted = {key for text in asked.key for key in keys_in(text)}
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    wrong = 0
    for file, document in zip(asked.files, documents, strict=True):
        try:
            check(document)
            assert not trusted or document["signature"]["public_key"] in trusted, "signed by another key"
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            wrong += 1
            print(f"{file}: DOES NOT HOLD: {type(error).__name__} {error}")
        else:
            proofs, keys = sum(len(shard["proofs"]) for shard in document["shards"]), len(document["keys"])
            said = f"{file}: holds, {proofs} row(s) proven gone, of {keys} key(s) named"
            print(said + ("" if proofs else ": nothing is shown of a model"))
    if asked.chain and not wrong:
        try:
            check_links(sorted(documents, key=lambda document: document["number"]))
        except AssertionError:
            wrong += 1
            print("the chain DOES NOT HOLD")
    if not wrong and not trusted:
        print("no --key was given: anybody may have signed this")
    return 1 if wrong else 0 if trusted else 5


if __name__ == "__main__":
    sys.exit(main())
