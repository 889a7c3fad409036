"""Names in storage of blobs and of lineage entries."""

from __future__ import annotations

import re

from hybridmu.errors import CorruptBlobError

BLOBS = "blobs"
SUFFIX = ".safetensors"
_REF = re.compile(rb"(\d{1,9})/[0-9a-f]{48}")


def blob_file(ref: str) -> str:
    """Return the name in storage of a blob.

    Raises:
        CorruptBlobError: That is no reference.
    """
    if (name := file_of(ref)) is None:
        raise CorruptBlobError(f"{ref!r} is no reference of a blob", remedy="look at the database: it is damaged")
    return name


def file_of(ref: str) -> str | None:
    """Return the name in storage of a blob; None for what is no reference."""
    if not is_reference(ref.encode()):
        return None
    shard, _, name = ref.partition("/")
    return f"{blob_folder(int(shard))}/{name}{SUFFIX}"


def is_reference(data: bytes) -> bool:
    """Return whether bytes are a reference, "<shard>/<hash>"."""
    return _REF.fullmatch(data) is not None


def lineage_file(shard: int, key: str) -> str:
    """Return the name in storage of a lineage entry."""
    return f"{lineage_folder(shard)}/{key}"


def blob_folder(shard: int) -> str:
    """Return the folder of a shard's blobs."""
    return f"{BLOBS}/shard-{shard:05d}"


def lineage_folder(shard: int) -> str:
    """Return the folder of a shard's lineage entries."""
    return f"lineage/shard-{shard:05d}"
