"""A successor: the same live rows in other shards and slices, or for another task, optimizer or encoder.

Every step may be repeated after a crash. The successor is linked before its rows are read, so that nothing that is
asked meanwhile passes it by: requests wait until it is trained, and rows that they name are then forgotten there too.
"""

from __future__ import annotations

from hybridmu.config import Settings
from hybridmu.core.features.encoding_parts import Encode
from hybridmu.errors import StateError
from hybridmu.runtime.linked.linking import link
from hybridmu.runtime.linked.peer import Peer, opened
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.reshard_import import Predecessor, inherit
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ownership import bind, take
from hybridmu.store.storage.file_modes import modes_of
from hybridmu.store.storage.storage import Storage
from hybridmu.types import IngestState


def prepare(old: Peer, settings: Settings, encode: Encode | None = None) -> None:
    """Make a successor's ledger, link it, and write its tables; what is left is to train it.

    Args:
        old: The model whose rows it gets.
        settings: The successor's configuration.
        encode: Makes features of texts and pictures again, where it has other encoders; None: this process does.

    Raises:
        StateError: The old model has rows on their way in, the two read other data, or something else is in the
            successor's storage.
    """
    _refuse_unlike(old, settings)
    storage = Storage(settings.storage_url, modes_of(settings.storage_mode))
    take(storage, settings)
    database = Database.open(settings.database, create=True, modes=storage.modes)
    written = _empty_or_ours(old, storage, settings, database)
    database.close()
    with opened(settings) as new:
        link(old, new)
        if written:
            return
        gone, tombstones = old.links.snapshot()  # after the links: what is asked from now on is passed on
        old.lake.refresh()
        version = old.registry.version().version
        new.lake.storage.drop_stale_staging()
        record = Recorder(new.lake, new.database).begin
        before = Predecessor(old.system, old.name, version, old.lake, gone, tombstones)
        inherit(new.lake, before, new.guard, record, encode=encode)


def _refuse_unlike(old: Peer, settings: Settings) -> None:
    """Check that a successor reads the same data in the same way.

    Raises:
        StateError: It does not, or the old model is not ready.
    """
    old.check()
    ours, theirs = old.settings.identity()["data"], settings.identity()["data"]
    differing = sorted(f"data.{name}" for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    ours, theirs = old.settings.features, settings.features
    kinds = ("text", "image")
    differing += [f"features.{kind}" for kind in kinds if getattr(ours, kind).keys() != getattr(theirs, kind).keys()]
    if settings.data.test_fraction not in {None, old.lake.manifest.test_fraction}:
        differing.append("data.test_fraction")
    if differing:
        raise StateError(
            "a successor must read the same data in the same way",
            expected="the same section data:, and encoders of the same columns under features:",
            got=f"other values of {', '.join(differing)}",
            remedy="change shards, slices, schedule, task, optimizer or encoders; for other columns train a new model",
        )
    if old.ingestions.all(IngestState.RECEIVED):
        raise StateError(
            "rows are on their way into this model, and would be missing in its successor",
            remedy="run its coordinator until `hybridmu ingests list` shows none as RECEIVED",
        )


def _empty_or_ours(old: Peer, storage: Storage, settings: Settings, database: Database) -> bool:
    """Return whether a successor's tables are there already, after claiming its storage.

    Returns:
        Whether they are.

    Raises:
        StateError: Another model is there.
    """
    lake = Lake(settings, storage)
    if not lake.exists:
        bind(storage, database.identity, settings, create=True, replace=True)
        database.links.succeeds(old.system)
        return False
    bind(storage, database.identity, settings, create=False)
    past = lake.manifest.ancestry
    if past is None or past.system != old.system:
        raise StateError(
            "there is another model in the successor's storage",
            expected="an empty storage_url and database_url",
            got="a model that was trained from its source" if past is None else f"the successor of model {past.name}",
        )
    return True
