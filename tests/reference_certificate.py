"""An independent check of one certificate, written from docs/certificate.md; shares no code with hybridmu."""

import hashlib
import json
from itertools import pairwise

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


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


def check(document: dict) -> None:
    """Raise AssertionError (or what malformed data raises) unless everything holds."""
    assert document["format"] == "hybridmu-certificate/1"
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
        for old, new in zip(before["links"], after["links"], strict=False):
            assert old["epochs"] == new["epochs"]
            assert new["rows"] <= old["rows"]
            assert (new["root"] == old["root"]) == (new["rows"] == old["rows"])
        for proof in shard["proofs"]:
            leaf, _, root = at(proof["inclusion"])
            old, new = before["links"][proof["slice"] - 1], after["links"][proof["slice"] - 1]
            assert leaf.hex() == proof["leaf"] == proof["absence"]["leaf"]
            assert (root.hex(), proof["inclusion"]["size"]) == (old["root"], old["rows"])
            assert proof["absence"]["size"] == new["rows"]
            check_absence(proof["absence"], bytes.fromhex(new["root"]))
        leaves = {(proof["slice"], proof["leaf"]) for proof in shard["proofs"]}
        assert len(leaves) == len(shard["proofs"]) == shard["evidence"]["revoked_rows"]
        roots = [(old["root"], new["root"]) for old, new in zip(before["links"], after["links"], strict=False)]
        if any(old != new for old, new in roots):
            assert before["weights"] != after["weights"]


def check_links(documents: list[dict]) -> None:
    """Raise AssertionError unless the certificates are a chain from number 1 on."""
    assert [document["number"] for document in documents] == list(range(1, len(documents) + 1))
    for earlier, later in pairwise(documents):
        assert later["previous"] == hashlib.sha256(canonical(earlier)).hexdigest()
        assert later["system"] == earlier["system"]
