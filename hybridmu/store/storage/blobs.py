"""Content-addressed weights, and the map from lineage to exact results; a folder per shard, so that one can be swept.

Two maps (never mixed): lineage key → blob, written for exact results only; blob → bytes. Both lie under the shard
that made them: `blobs/shard-00003/<hash>.safetensors` and `lineage/shard-00003/<key>`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence

import safetensors.torch

from hybridmu.core.kernel.model import State
from hybridmu.errors import CorruptBlobError
from hybridmu.faults import reach
from hybridmu.store.storage.blob_names import (
    SUFFIX,
    blob_file,
    blob_folder,
    file_of,
    is_reference,
    lineage_file,
    lineage_folder,
)
from hybridmu.store.storage.storage import FileInfo, Storage

_KEY = re.compile("[0-9a-f]{48}")


class Blobs:
    """Weights by reference, and exact checkpoints by lineage.

    A reference is opaque text, "<shard>/<hash>"; equal weights have equal hashes.

    Args:
        storage: Where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, state: State, shard: int) -> str:
        """Return the reference of a shard's weights, after storing them; the same content is written once.

        A file that is there already is believed only after its bytes were read: its own may have been damaged.
        """
        data = _encoded(state)
        ref = f"{shard}/{_hash(data)}"
        if self._size(ref) != len(data) or not self.intact(ref):
            reach("blob.write")
            self.storage.write(blob_file(ref), data)
            reach("blob.stored")
        return ref

    def get(self, ref: str) -> State:
        """Return a state.

        Args:
            ref: Its reference.

        Returns:
            CPU tensors.

        Raises:
            CorruptBlobError: The file is missing, or its bytes do not match the hash.
        """
        shard, _, name = ref.partition("/")
        try:
            data = self.storage.read(blob_file(ref), fixed=True)
        except FileNotFoundError:
            raise CorruptBlobError(
                f"blob {name[:12]}… of shard {shard} is missing",
                remedy="the coordinator retrains its shard by itself: keep `hybridmu run` running",
            ) from None
        if _hash(data) != name:
            raise CorruptBlobError(
                f"blob {name[:12]}… of shard {shard} does not match its hash",
                got="changed or truncated bytes",
                remedy="it is never used; the coordinator retrains its shard by itself: keep `hybridmu run` running",
            )
        return dict(safetensors.torch.load(data))

    def intact(self, ref: str) -> bool:
        """Return whether a blob is there and its bytes match its hash."""
        try:
            return _hash(self.storage.read(blob_file(ref), fixed=True)) == ref.partition("/")[2]
        except FileNotFoundError:
            return False

    def record(self, shard: int, lineage_key: str, ref: str) -> None:
        """Say that an exact run of this lineage gave this blob."""
        self.storage.write(lineage_file(shard, lineage_key), _entry(shard, lineage_key, ref))
        reach("lineage.recorded")

    def adopt(self, shard: int, lineage_key: str, ref: str) -> None:
        """Write again an entry of an older release, which has no check of its own, if it says what the ledger does."""
        name = lineage_file(shard, lineage_key)
        if self.storage.exists(name) and self.storage.read(name, fixed=True) == ref.encode():
            self.record(shard, lineage_key, ref)

    def find(self, shard: int, lineage_key: str) -> str | None:
        """Return the blob of an exact checkpoint, if it was ever made and its file is still there."""
        ref = self._recorded(shard, lineage_key)
        return ref if ref and self.storage.exists(blob_file(ref)) else None

    def load(self, shard: int, lineage_key: str) -> State | None:
        """Return the state of an exact checkpoint; a corrupted one is dropped, so that it is rebuilt."""
        ref = self.find(shard, lineage_key)
        if ref is None:
            return None
        try:
            return self.get(ref)
        except CorruptBlobError:
            self.storage.delete(lineage_file(shard, lineage_key), blob_file(ref))
            return None

    def damaged(self, shard: int, keys: Sequence[str]) -> list[str]:
        """Return which checkpoints of a run were recorded, but their bytes are missing or changed.

        Args:
            shard: Shard number.
            keys: Lineage keys in slice order; one that was evicted has no record, and is passed over.
        """
        found = []
        for key in keys:
            if self.storage.exists(lineage_file(shard, key)):
                ref = self._recorded(shard, key)
                found += [] if ref and self.intact(ref) else [key]
        return found

    def mend(self, shard: int, keys: Sequence[str]) -> None:
        """Forget the checkpoints of a run from its first damaged one on, so that a retrain makes them again.

        Args:
            shard: Shard number.
            keys: Lineage keys of the run, in slice order.
        """
        if broken := self.damaged(shard, keys):
            self.storage.delete(*(lineage_file(shard, key) for key in keys[keys.index(broken[0]) :]))

    # ------------------------------------------------------------------ sweeping

    def listed(self, shard: int) -> tuple[set[str], set[str]]:
        """Return (references, lineage keys) of everything in a shard's folders, recorded or not."""
        keys = self.storage.list(lineage_folder(shard))
        return set(self.sizes(shard)), {_base(file) for file in keys if _KEY.fullmatch(_base(file))}

    def sizes(self, shard: int) -> dict[str, int]:
        """Return reference → bytes of every blob in a shard's folder."""
        refs = {f"{shard}/{_base(file).removesuffix(SUFFIX)}": file for file in self.storage.list(blob_folder(shard))}
        return {ref: file.size for ref, file in refs.items() if file.name == file_of(ref)}

    def unfinished(self, shard: int) -> set[str]:
        """Return the names of the temporary files in a shard's folders; where no job writes, a crash left them."""
        files = [*self.storage.list(blob_folder(shard)), *self.storage.list(lineage_folder(shard))]
        return {file.name for file in files if file.temporary}

    def drop(self, shard: int, refs: Collection[str], keys: Collection[str]) -> None:
        """Delete blobs and lineage entries of a shard, and what a crash left unfinished there.

        Bytes go first: an entry without bytes is as good as none, and a repeated call finishes an interrupted one.

        Args:
            shard: Shard number. No job may be writing to it: its unfinished file would vanish and the job fail.
            refs: Blobs to delete; those that are not there are passed over.
            keys: Lineage keys, likewise.
        """
        self.storage.delete(
            *(blob_file(ref) for ref in sorted(refs)),
            *(lineage_file(shard, key) for key in sorted(keys)),
            *sorted(self.unfinished(shard)),
        )

    def _recorded(self, shard: int, lineage_key: str) -> str | None:
        """Return what a lineage entry says; nothing where its check does not fit: it is damaged, or another key's."""
        try:
            data = self.storage.read(lineage_file(shard, lineage_key), fixed=True)
        except FileNotFoundError:
            return None
        ref = data.partition(b" ")[0]
        whole = is_reference(ref) and data == _entry(shard, lineage_key, ref.decode())
        return ref.decode() if whole else None

    def _size(self, ref: str) -> int | None:
        try:
            return self.storage.size(blob_file(ref))
        except FileNotFoundError:
            return None


def weights_hash(state: State) -> str:
    """Return the hash by which a state is known: equal for equal bits."""
    return _hash(_encoded(state))


def _entry(shard: int, key: str, ref: str) -> bytes:
    """Return a lineage entry: the blob, and a check that binds it to its own name."""
    check = hashlib.blake2b(f"{shard} {key} {ref}".encode(), digest_size=16, person=b"hybridmu-entry").hexdigest()
    return f"{ref} {check}".encode()


def _base(file: FileInfo) -> str:
    return file.name.rpartition("/")[2]


def _encoded(state: State) -> bytes:
    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    return data


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=24).hexdigest()
