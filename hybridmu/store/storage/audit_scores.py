"""Finished shadow models of audits under way, so that an interrupted audit goes on: `audits/shard-00003/<name>/…`.

What is kept are margins, losses and accuracies, no weights and no ids. They come from rows that may be revoked later:
the purge of a shard deletes its folder, and an audit its own when it ends. A file that was changed, or belongs to other
models, is as good as none: these models are made again.
"""

from __future__ import annotations

import re
from contextlib import suppress

from hybridmu.errors import CorruptBlobError
from hybridmu.store.storage.sealed_json import sealed, unsealed
from hybridmu.store.storage.storage import Storage

_FILE = re.compile(r"audits/shard-\d{5}/([^/]+)/(\d{6})\.json")
_MEMBERS = ("file", "scores")


class Audits:
    """What audits keep in storage.

    Args:
        storage: Where.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def keep(self, shard: int, name: str, number: int, document: str) -> None:
        """Keep the scores of the shadow models of one number.

        Args:
            shard: Whose rows they saw.
            name: Of the audit: covers everything that shapes the scores.
            number: Decides the seeds.
            document: JSON.
        """
        file = f"{_folder(shard)}/{name}/{number:06d}.json"
        self.storage.write(file, sealed({"file": file, "scores": document}))

    def kept(self, shard: int, name: str) -> dict[int, str]:
        """Return number → JSON of what an earlier run of the same audit finished."""
        found: dict[int, str] = {}
        for file in self.storage.list(f"{_folder(shard)}/{name}"):
            if match := _FILE.fullmatch(file.name):
                with suppress(CorruptBlobError):
                    kept = unsealed(self.storage.read(file.name), file.name, _MEMBERS, "run the audit again")
                    if kept["file"] == file.name:
                        found[int(match[2])] = kept["scores"]
        return found

    def drop(self, shard: int, *, but: str | None = None, only: str | None = None) -> int:
        """Delete scores of a shard, unfinished files included.

        Args:
            shard: Shard number.
            but: Leave audits whose name begins so.
            only: Leave all audits but this one.

        Returns:
            How many files went.
        """
        files = self.storage.list(_folder(shard))
        found = [file.name.split("/")[2] for file in files]
        going = {name for name in found if only in {None, name} and not (but and name.startswith(but))}
        places = [_folder(shard)] if going == set(found) else [f"{_folder(shard)}/{name}" for name in sorted(going)]
        for place in places:
            self.storage.delete_folder(place)
        return sum(name in going for name in found)


def _folder(shard: int) -> str:
    return f"audits/shard-{shard:05d}"
