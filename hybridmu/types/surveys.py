"""Survey: the keys, rows and raw values that a purge removes from one shard for one request."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hybridmu.types.keys import NO_KEYS, KeySet


@dataclass(frozen=True, slots=True)
class Survey:
    """What goes from one shard for one request.

    Attributes:
        keys: Those that the request revoked.
        rows: (table, id digest, content digest) of every row that carries one of them.
        raw: Ids and groups of the rows as they are in the table, where they are long enough to be telling.
    """

    keys: KeySet = NO_KEYS
    rows: frozenset[tuple[str, bytes, bytes]] = frozenset()
    raw: frozenset[bytes] = frozenset()

    @property
    def ids(self) -> frozenset[bytes]:
        """Return the id digests of the rows."""
        return frozenset(id_ for _, id_, _ in self.rows)

    @property
    def content(self) -> frozenset[bytes]:
        """Return the content digests of the training rows."""
        return frozenset(content for split, _, content in self.rows if split == "train")

    @property
    def needles(self) -> frozenset[bytes]:
        """Return the byte strings that must not be found anywhere once the rows are gone."""
        return self.ids | self.raw | {key for _, key in self.keys}

    def merged(self, other: Survey) -> Survey:
        """Return what either survey names: a later one no more finds what is gone already."""
        return Survey(KeySet(self.keys | other.keys), self.rows | other.rows, self.raw | other.raw)

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps({
            "keys": sorted((kind, key.hex()) for kind, key in self.keys),
            "rows": sorted((split, id_.hex(), content.hex()) for split, id_, content in self.rows),
            "raw": sorted(value.hex() for value in self.raw),
        })

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Return the survey that `to_json` wrote."""
        read = json.loads(text)
        return cls(
            KeySet((kind, bytes.fromhex(key)) for kind, key in read["keys"]),
            frozenset((split, bytes.fromhex(id_), bytes.fromhex(content)) for split, id_, content in read["rows"]),
            frozenset(map(bytes.fromhex, read["raw"])),
        )
